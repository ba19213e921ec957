// See progress.h.
#include "quern/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace quern {
namespace {

constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(5);
constexpr int kBarCells = 24;

std::string duration_text(double seconds) {
  const auto total = static_cast<long>(seconds + 0.5);
  if (total < 3600) return fmt::format("{:02}:{:02}", total / 60, total % 60);
  return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
}

std::string amount_text(double amount, ProgressUnit unit) {
  return unit == ProgressUnit::kBytes ? bytes_text(amount) : fmt::format("{:.0f}", amount);
}

}  // namespace

std::string bytes_text(double bytes) {
  static constexpr std::array<const char*, 6> kUnits{"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= 1000.0 && unit + 1 < kUnits.size()) {
    bytes /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

std::string Progress::line(const std::string& label, std::uint64_t done, std::uint64_t total,
                           double seconds, ProgressUnit unit, const std::string& note) {
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0.0;
  std::string text = label;
  if (total > 0) {
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const auto full = static_cast<std::size_t>(share * kBarCells);
    text += fmt::format(" {:3.0f}% [{}{}] {}/{}", share * 100.0, std::string(full, '#'),
                        std::string(kBarCells - full, '.'), amount_text(static_cast<double>(done), unit),
                        amount_text(static_cast<double>(total), unit));
  } else {
    text += fmt::format(" {}", amount_text(static_cast<double>(done), unit));
  }
  text += fmt::format(" [{}", duration_text(seconds));
  if (total > done && rate > 0) {
    text += fmt::format("<{}", duration_text(static_cast<double>(total - done) / rate));
  }
  text += unit == ProgressUnit::kBytes ? fmt::format(", {}/s]", bytes_text(rate))
                                       : fmt::format(", {:.2f}/s]", rate);
  if (!note.empty()) text += " " + note;
  return text;
}

Progress::Progress(std::string label, std::uint64_t total, ProgressUnit unit, std::FILE* out)
    : label_(std::move(label)),
      total_(total),
      unit_(unit),
      out_(out),
      terminal_(::isatty(::fileno(out)) == 1),
      start_(std::chrono::steady_clock::now()),
      next_draw_(start_ + (terminal_ ? std::chrono::steady_clock::duration::zero() : kPlainInterval)) {}

Progress::~Progress() { finish(); }

void Progress::add(std::uint64_t amount) {
  const std::lock_guard lock(mutex_);
  done_ += amount;
  if (std::chrono::steady_clock::now() >= next_draw_) draw_locked(false);
}

void Progress::set_note(std::string note) {
  const std::lock_guard lock(mutex_);
  note_ = std::move(note);
}

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(finished_, true)) return;
  draw_locked(true);
}

void Progress::draw_locked(bool last) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string text = line(label_, done_, total_, seconds, unit_, note_);
  if (terminal_) {
    fmt::print(out_, "\r\033[K{}{}", text, last ? "\n" : "");
    next_draw_ = now + kTerminalInterval;
  } else {
    fmt::print(out_, "{}\n", text);
    next_draw_ = now + kPlainInterval;
  }
  std::fflush(out_);
}

}  // namespace quern
