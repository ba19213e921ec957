#include "quern/engine/available_memory.h"

#include <gtest/gtest.h>

#include "quern/base/file.h"
#include "tests/support/temp_directory.h"

namespace quern::engine {
namespace {

// A machine with 1,000 KiB available; groups as the row says.
class AvailableMemory : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((root_ / name).parent_path());
    write_file(root_ / name, text);
  }
  void SetUp() override {
    write("proc/meminfo", "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:   1000 kB\n");
  }
  std::uint64_t bytes() const { return available_memory_bytes(root_ / "proc", root_ / "cgroup"); }

  quern::test::TempDirectory root_;
};

TEST_F(AvailableMemory, IsTheMachinesWithoutGroups) { EXPECT_EQ(bytes(), 1000U * 1024); }

TEST_F(AvailableMemory, IsTheTightestGroupsOfVersion2) {
  write("proc/self/cgroup", "0::/pod/app\n");
  write("cgroup/pod/app/memory.max", "max\n");
  write("cgroup/pod/app/memory.current", "500\n");
  EXPECT_EQ(bytes(), 1000U * 1024);
  write("cgroup/pod/memory.max", "90000\n");
  write("cgroup/pod/memory.current", "50000\n");
  write("cgroup/pod/memory.stat", "anon 1\nfile 2\ninactive_file 7000\nactive_file 3000\n");
  EXPECT_EQ(bytes(), 50000U);
  write("cgroup/pod/app/memory.max", "700\n");
  EXPECT_EQ(bytes(), 200U);
  write("cgroup/pod/app/memory.current", "800\n");  // over its limit
  EXPECT_EQ(bytes(), 0U);
}

TEST_F(AvailableMemory, IsTheRootsWhereAContainerSeesNoOther) {
  write("proc/self/cgroup", "0::/system.slice/docker-1.scope\n");
  write("cgroup/memory.max", "4000\n");
  write("cgroup/memory.current", "1000\n");
  EXPECT_EQ(bytes(), 3000U);
}

TEST_F(AvailableMemory, IsTheGroupsOfVersion1) {
  write("proc/self/cgroup", "11:cpu,cpuacct:/x\n5:memory:/docker/1\n0::/\n");
  write("cgroup/memory/docker/1/memory.limit_in_bytes", "6000\n");
  write("cgroup/memory/docker/1/memory.usage_in_bytes", "1500\n");
  write("cgroup/memory/docker/1/memory.stat", "active_file 9\ntotal_active_file 500\n");
  write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("cgroup/memory/memory.usage_in_bytes", "1000\n");
  EXPECT_EQ(bytes(), 5000U);
}

TEST_F(AvailableMemory, IsZeroWhereNothingIsSaid) {
  write("proc/meminfo", "nonsense\n");
  EXPECT_EQ(bytes(), 0U);
}

}  // namespace
}  // namespace quern::engine
