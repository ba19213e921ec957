// A whole safetensors file: the mapped and the plain reader, and the writer's layout of what they
// found. Must never accept a header whose tensors do not tile the file. Proved by Fuzz.safetensors
// and by running it under libFuzzer (fuzz/README.md).
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "fuzz/fuzz_target.h"
#include "quern/checkpoint/safetensors.h"

namespace {

using namespace quern;

// One file in memory that every input is written over.
const std::string& file_with(std::string_view bytes) {
  static const int fd = ::memfd_create("fuzz", 0);
  static const std::string path = fmt::format("/proc/self/fd/{}", fd);
  QUERN_CHECK(fd >= 0 && ::ftruncate(fd, 0) == 0);
  QUERN_CHECK(::pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return path;
}

void check_tiling(const SafetensorsHeader& header) {
  std::vector<TensorInfo> tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = header.data_begin;
  for (const TensorInfo& tensor : tensors) {
    QUERN_CHECK(tensor.begin == at);
    QUERN_CHECK(tensor.bytes() ==
                static_cast<std::uint64_t>(num_elements(tensor.shape)) * dtype_bytes(tensor.dtype));
    at = tensor.end;
  }
  QUERN_CHECK(at == header.file_bytes);
}

// What was read can be planned and read again.
void check_layout(const SafetensorsHeader& header) {
  std::vector<TensorSpec> specs;
  for (const TensorInfo& t : header.tensors) specs.push_back({t.name, t.dtype, t.shape});
  const SafetensorsLayout layout = plan_safetensors(std::move(specs));
  const SafetensorsHeader again =
      parse_safetensors_header(std::string_view(layout.prefix).substr(8), layout.file_bytes);
  QUERN_CHECK(again.tensors.size() == header.tensors.size());
  for (std::size_t i = 0; i < again.tensors.size(); ++i) {
    QUERN_CHECK(again.tensors[i].name == layout.tensors[i].name);
    QUERN_CHECK(again.tensors[i].begin == layout.tensors[i].begin);
    QUERN_CHECK(again.tensors[i].shape == layout.tensors[i].shape);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string& path = file_with(fuzz::text_of(data, size));
  SafetensorsHeader header;
  const bool readable = fuzz::accepts([&] { header = read_safetensors_header(path); });
  if (readable) check_tiling(header);
  if (readable) check_layout(header);
  fuzz::accepts([&] {
    const SafetensorsFile file(path);
    QUERN_CHECK(readable && file.tensors().size() == header.tensors.size());
    std::byte touched{};
    for (const TensorInfo& info : file.tensors()) {
      QUERN_CHECK(file.find(info.name) == &info);
      for (const std::byte byte : file.view(info).raw()) touched ^= byte;
    }
    static volatile std::byte sink;
    sink = touched;
    (void)sink;
  });
  return 0;
}
