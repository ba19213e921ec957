// The error type of the whole program: one line of text that grows context on its way up.
// Must never be used for programming errors (those are QUERN_CHECK, which aborts).
// Proved by tests/base/error_test.cc.
#pragma once

#include <fmt/core.h>

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace quern {

// A wrong input or a failing environment. The message says where, what was found, what was expected
// and what to do; add_context() prefixes the enclosing place ("model-00001.safetensors: ...").
class Error : public std::exception {
 public:
  explicit Error(std::string message) : message_(std::move(message)) {}

  template <typename... Args>
    requires(sizeof...(Args) > 0)
  explicit Error(fmt::format_string<Args...> format, Args&&... args)
      : message_(fmt::format(format, std::forward<Args>(args)...)) {}

  const char* what() const noexcept override { return message_.c_str(); }

  Error& add_context(std::string_view context) {
    message_ = fmt::format("{}: {}", context, message_);
    return *this;
  }

 private:
  std::string message_;
};

// Wrong usage of the command line: exit status 2 instead of 1.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Runs `fn` and prefixes any Error that leaves it with `context`.
template <typename Fn>
decltype(auto) with_context(std::string_view context, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (Error& error) {
    error.add_context(context);
    throw;
  }
}

// "cannot open 'x': No such file or directory" from errno, which is read first.
[[noreturn]] void throw_errno(std::string_view what);

[[noreturn]] void check_failed(const char* file, int line, const char* expression,
                               const std::string& message);

}  // namespace quern

// Invariants of the program itself: always on, aborts. Extra arguments are a fmt format and its values.
#define QUERN_CHECK(expression, ...)                                                        \
  do {                                                                                      \
    if (!(expression)) [[unlikely]]                                                         \
      ::quern::check_failed(__FILE__, __LINE__, #expression, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
