// The web page of compare_report.h: tables, then every question with both answers side by side.
#include <fmt/format.h>

#include "quern/eval/compare_report.h"
#include "quern/eval/markdown.h"

namespace quern {
namespace {

// Radio buttons in front of the list filter it without a script.
constexpr const char* kStyle = R"css(
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; color: #1b1b1b }
table { border-collapse: collapse; margin: 1em 0 } th, td { border: 1px solid #ccc; padding: .25em .6em }
th { background: #f2f2f2 } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3em 0; font: 13px/1.4 ui-monospace, monospace }
details { border: 1px solid #ddd; border-left: 6px solid #bbb; margin: .4em 0; padding: .3em .7em }
details.lost { border-left-color: #c62828 } details.won { border-left-color: #2e7d32 }
summary { cursor: pointer; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1em }
.pair > div { background: #fafafa; padding: .4em .7em; min-width: 0 }
.right { color: #2e7d32 } .wrong { color: #c62828 }
input.lost:checked ~ details:not(.lost), input.won:checked ~ details:not(.won),
input.both:checked ~ details:not(.both), input.neither:checked ~ details:not(.neither) { display: none }
)css";

const char* group_of(const PairedQuestion& question) {
  if (question.base.score > question.quantized.score) return "lost";
  if (question.base.score < question.quantized.score) return "won";
  return question.base.score > 0 ? "both" : "neither";
}

std::string cell(const std::string& text) {
  return fmt::format("<td class=n>{}</td>", escape_html(text));
}

std::string summary_table(const Comparison& comparison) {
  std::string out =
      "<table><tr><th>Task<th>Metric<th>Filter<th>Base %<th>Quantized %<th>Difference"
      "<th>95 % bootstrap<th>Recovery %<th>95 % interval<th>Both right<th>Only base"
      "<th>Only quantized<th>Both wrong<th>McNemar p</tr>\n";
  for (const ComparedScore& score : comparison.scores) {
    out += fmt::format("<tr><td>{}<td>{}<td>{}", escape_html(score.task), escape_html(score.metric),
                       escape_html(score.filter));
    out += cell(percent(score.base.value)) + cell(percent(score.quantized.value));
    out += cell(fmt::format("{:+.2f}", 100 * (score.quantized.value - score.base.value)));
    out += cell(score.bootstrap ? interval_text(score.bootstrap->difference) : "n/a");
    out += cell(score.recovery ? percent(*score.recovery) : "n/a") +
           cell(interval_text(score.interval));
    if (score.counts) {
      const PairedCounts& c = *score.counts;
      for (const std::size_t n : {c.both_right, c.only_base, c.only_quantized, c.both_wrong})
        out += cell(std::to_string(n));
      out += cell(fmt::format("{:.4f}", mcnemar_p_value(c)));
    } else {
      out += fmt::format("<td colspan=5>{}</td>", escape_html(score.unpaired_reason));
    }
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

std::string side(const char* name, const RunSample& sample) {
  return fmt::format(
      "<div><b>{}</b> <span class={}>score {:g}</span><pre>{}</pre>extracted: "
      "<code>{}</code></div>",
      name, sample.score > 0 ? "right" : "wrong", sample.score, escape_html(sample.answer),
      escape_html(sample.extracted));
}

std::string question_block(const PairedQuestion& question) {
  const std::string text = escape_html(question.base.question);
  return fmt::format(
      "<details class={}><summary>{} &middot; {} &middot; {}</summary><pre>{}</pre>"
      "reference: <pre>{}</pre><div class=pair>{}{}</div></details>\n",
      group_of(question), question.doc_id, group_of(question), text, text,
      escape_html(question.base.target), side("base", question.base),
      side("quantized", question.quantized));
}

std::string score_section(const ComparedScore& score, std::size_t number) {
  std::string out = fmt::format("<section><h2>{} {} {}</h2>\n", escape_html(score.task),
                                escape_html(score.metric), escape_html(score.filter));
  constexpr const char* kGroups[] = {"all", "lost", "won", "both", "neither"};
  for (const char* group : kGroups) {
    out += fmt::format(
        "<input type=radio name=s{0} id=s{0}{1} class={1}{2}><label for=s{0}{1}>{1}</label>\n",
        number, group, group == kGroups[0] ? " checked" : "");
  }
  for (const PairedQuestion& question : score.questions) out += question_block(question);
  return out + "</section>\n";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '\0':
        out += "\xEF\xBF\xBD";
        break;  // HTML has no NUL
      default:
        out += c;
    }
  }
  return out;
}

std::string comparison_html(const Comparison& comparison) {
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n<title>{} and {}</title><style>{}</style></head><body>\n"
      "<h1>Question by question</h1>\n<p>base: <code>{}</code><br>quantized: <code>{}</code></p>\n",
      escape_html(comparison.base_name), escape_html(comparison.quantized_name), kStyle,
      escape_html(comparison.base_name), escape_html(comparison.quantized_name));
  out += summary_table(comparison);
  std::size_t number = 0;
  for (const ComparedScore& score : comparison.scores) {
    if (score.paired) out += score_section(score, ++number);
  }
  return out + "</body></html>\n";
}

}  // namespace quern
