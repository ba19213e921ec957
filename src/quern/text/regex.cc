// See regex.h.
#include "quern/text/regex.h"

#include <array>
#include <cstdint>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "quern/base/error.h"

namespace quern {
namespace {

// A pattern that backtracks over one run of n characters needs n steps; runs may be the whole text.
constexpr std::uint32_t kMatchSteps = 200'000'000;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;
constexpr std::size_t kJitStackBytes = 1u << 20;
constexpr std::size_t kMaxPatternBytes = 1u << 16;

bool compiles(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// Oniguruma's pattern in PCRE2's syntax. PCRE2's \s adds U+180E, its \w lacks marks, its \p{Script}
// is script *extensions*, its \h is a blank where Oniguruma's is a hexadecimal digit.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else {
        if (pattern_[at_] == '[')
          open_class();
        else
          out_ += pattern_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw Error("regex '{}': {} at byte {} is not supported", pattern_, what, at_);
  }

  void open_class() {
    in_class_ = true;
    out_ += pattern_[at_++];
    if (at_ < pattern_.size() && pattern_[at_] == '^') out_ += pattern_[at_++];
    if (at_ < pattern_.size() && pattern_[at_] == ']') out_ += pattern_[at_++];
  }

  void class_character() {
    const char c = pattern_[at_];
    if (pattern_.substr(at_, 2) == "&&") fail("the intersection of classes");
    if (c == '[') {
      if (pattern_.substr(at_, 2) != "[:") fail("a class in a class");
      const std::size_t end = pattern_.find(":]", at_);
      if (end == std::string_view::npos) fail("an unfinished POSIX class");
      out_ += pattern_.substr(at_, end + 2 - at_);
      at_ = end + 2;
      return;
    }
    if (c == ']') in_class_ = false;
    out_ += c;
    ++at_;
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) fail("a backslash at the end");
    const char c = pattern_[at_ + 1];
    switch (c) {
      case 's':
        return replace("\\p{White_Space}");
      case 'S':
        return replace("\\P{White_Space}");
      case 'h':
        return replace(in_class_ ? "0-9a-fA-F" : "[0-9a-fA-F]");
      case 'w':
        return replace(in_class_ ? kWord : fmt::format("[{}]", kWord));
      case 'W':
        if (in_class_) fail("\\W in a class");
        return replace(fmt::format("[^{}]", kWord));
      case 'H':
        fail("\\H");
      case 'p':
      case 'P':
        return property();
      default:
        out_ += '\\';
        out_ += c;
        at_ += 2;
    }
  }

  void replace(std::string_view text) {
    out_ += text;
    at_ += 2;
  }

  void property() {
    const std::size_t end = pattern_.find('}', at_);
    const bool braced = at_ + 2 < pattern_.size() && pattern_[at_ + 2] == '{';
    if (!braced || end == std::string_view::npos) {
      out_ += pattern_.substr(at_, 2);
      at_ += 2;
      return;
    }
    const std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    const std::string script = fmt::format("\\{}{{sc:{}}}", pattern_[at_ + 1], name);
    // Names of one or two letters are general categories.
    if (name.size() > 2 && compiles(script)) {
      out_ += script;
    } else {
      out_ += pattern_.substr(at_, end + 1 - at_);
    }
    at_ = end + 1;
  }

  static constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

  std::string_view pattern_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

struct Regex::Code {
  pcre2_code* code;
  explicit Code(pcre2_code* compiled) : code(compiled) {}
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<const Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex Regex::compile_pcre2(std::string_view pattern, std::string_view shown, unsigned options) {
  if (shown.size() > kMaxPatternBytes) {
    throw Error("regex of {} bytes: at most {} are accepted", shown.size(), kMaxPatternBytes);
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | options, &error, &offset, context.get());
  if (code == nullptr) {
    throw Error("regex '{}': {} at byte {}", shown, pcre2_message(error), offset);
  }
  auto owner = std::make_unique<const Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where JIT is absent the interpreter runs
  return Regex(std::move(owner));
}

Regex Regex::compile(std::string_view pattern) {
  // In Oniguruma's Ruby syntax ^ and $ are the ends of lines.
  return compile_pcre2(Translator(pattern).run(), pattern,
                       PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
}

Regex Regex::literal(std::string_view text) { return compile_pcre2(text, text, PCRE2_LITERAL); }

struct Regex::Matcher::State {
  const pcre2_code* code;
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;

  explicit State(const pcre2_code* compiled)
      : code(compiled),
        data(pcre2_match_data_create_from_pattern(compiled, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr)) {
    pcre2_set_match_limit(context, kMatchSteps);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

Regex::Matcher::Matcher(const Regex& regex) : state_(std::make_unique<State>(regex.code_->code)) {}
Regex::Matcher::Matcher(Matcher&&) noexcept = default;
Regex::Matcher::~Matcher() = default;

std::optional<RegexMatch> Regex::Matcher::find(std::string_view subject, std::size_t from) {
  // The subject was validated once by the caller: checking it at each match would be quadratic.
  const int rc =
      pcre2_match(state_->code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), from,
                  PCRE2_NO_UTF_CHECK, state_->data, state_->context);
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) throw Error("regex gave up at byte {} of the text: {}", from, pcre2_message(rc));
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state_->data);
  return RegexMatch{offsets[0], offsets[1]};
}

}  // namespace quern
