// The Python extension quern._quern: options in, a run of the quantizer, numbers out.
// Must never hold the GIL while quantizing, nor decide anything that the library decides.
// Proved by tests/python/quern_test.py.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <chrono>
#include <tuple>

#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/ranks.h"
#include "quern/quantize/template.h"
#include "quern/quantize/verify.h"

namespace py = pybind11;

namespace quern {
namespace {

// Leaves the library with Python's error indicator set.
struct Interrupted {};

// Lets Python handle Ctrl-C a few times a second.
class SignalCheck {
 public:
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw Interrupted();
  }

 private:
  std::chrono::steady_clock::time_point next_;
};

template <typename Fn>
auto without_gil(const Fn& fn) {
  try {
    const py::gil_scoped_release released;
    return fn(SignalCheck());
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

py::dict quantize(const QuantizeOptions& options) {
  const QuantizeReport report = without_gil([&](const SignalCheck& check) {
    const QuantizePlan plan = make_plan(options);
    prepare_output_directory(options);
    return run_plan(plan, options, check);
  });
  py::dict result;
  result["shards"] = report.shards;
  result["skipped_shards"] = report.skipped_shards;
  result["missing_shards"] = report.missing_shards;
  result["quantized_tensors"] = report.quantized_tensors;
  result["copied_tensors"] = report.copied_tensors;
  result["source_bytes"] = report.source_bytes;
  result["output_bytes"] = report.output_bytes;
  result["seconds"] = report.seconds;
  const bool measured = !report.quality.tensors.empty();
  result["table"] = measured ? quality_table(report.quality) : std::string();
  return result;
}

py::dict verify(const std::filesystem::path& directory) {
  const VerifyReport report =
      without_gil([&](const SignalCheck& check) { return verify_output(directory, check); });
  py::dict result;
  result["shards"] = report.shards;
  result["tensors"] = report.tensors;
  result["bytes"] = report.bytes;
  return result;
}

// (source, targets, operation, axis), as __init__.py makes them of Quark's objects.
using ConverterFields = std::tuple<std::string, std::vector<std::string>, std::string, int>;

std::vector<ConverterFields> converter_fields(const std::vector<WeightConverter>& converters) {
  std::vector<ConverterFields> fields;
  for (const WeightConverter& c : converters) {
    const bool chunk = c.operation == WeightConverter::Operation::kChunk;
    fields.emplace_back(c.source, c.targets, chunk ? "Chunk" : "SplitFusedExperts", c.axis);
  }
  return fields;
}

py::list templates() {
  py::list list;
  for (const ModelTemplate& entry : builtin_templates()) {
    py::dict fields;
    fields["model_type"] = entry.model_type;
    fields["kv_layers_name"] = entry.kv_layers_name;
    fields["q_layer_name"] = entry.q_layer_name;
    fields["gate_up_layers_name"] = entry.gate_up_layers_name;
    fields["exclude_layers_name"] = entry.exclude_layers_name;
    fields["f2f_weight_converters"] = converter_fields(entry.weight_converters);
    list.append(fields);
  }
  return list;
}

void set_converters(QuantizeOptions& options, const std::vector<ConverterFields>& fields) {
  options.weight_converters.clear();
  for (const auto& [source, targets, operation, axis] : fields) {
    using Operation = WeightConverter::Operation;
    options.weight_converters.push_back(
        {source, targets, operation == "Chunk" ? Operation::kChunk : Operation::kSplitFusedExperts,
         axis});
  }
}

py::tuple environment_rank() {
  const Rank rank = rank_from_environment(environment);
  return py::make_tuple(rank.rank, rank.world_size);
}

}  // namespace

PYBIND11_MODULE(_quern, module) {
  py::register_exception<Error>(module, "Error", PyExc_RuntimeError);
  py::class_<QuantizeOptions>(module, "QuantizeOptions")
      .def(py::init<>())
      .def_readwrite("model_dir", &QuantizeOptions::model_dir)
      .def_readwrite("output_dir", &QuantizeOptions::output_dir)
      .def_readwrite("quant_scheme", &QuantizeOptions::quant_scheme)
      .def_readwrite("layer_config", &QuantizeOptions::layer_config)
      .def_readwrite("exclude_layers", &QuantizeOptions::exclude_layers)
      .def_readwrite("keep_excluded_layers_as_original_model_state",
                     &QuantizeOptions::keep_excluded_layers_as_original_model_state)
      .def_readwrite("presharded_weights", &QuantizeOptions::presharded_weights)
      .def("set_weight_converters", &set_converters)
      .def_readwrite("overwrite", &QuantizeOptions::overwrite)
      .def_readwrite("threads", &QuantizeOptions::threads)
      .def_readwrite("memory_budget_bytes", &QuantizeOptions::memory_budget_bytes)
      .def_readwrite("rank", &QuantizeOptions::rank)
      .def_readwrite("world_size", &QuantizeOptions::world_size)
      .def_readwrite("report", &QuantizeOptions::report);
  module.def("quantize", &quantize);
  module.def("verify", &verify);
  module.def("templates", &templates);
  module.def("environment_rank", &environment_rank);
  module.def("check_scheme", [](const std::string& name) { find_scheme(name); });
  module.def("supported_schemes", [] {
    std::vector<std::string> names;
    for (const Scheme& scheme : supported_schemes()) names.emplace_back(scheme.name);
    return names;
  });
}

}  // namespace quern
