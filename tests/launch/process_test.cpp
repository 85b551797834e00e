#include "launch/process.h"

#include <gtest/gtest.h>

#include "tests/launch/temporary_folder.h"

namespace pf {
namespace {

TEST(MemoryLimit, IsTheSmallestOfACgroupAndThoseAboveIt) {
  const TemporaryFolder root;
  root.write("proc/self/cgroup", "0::/job/step\n");
  root.write("sys/fs/cgroup/job/step/memory.max", "max\n");
  EXPECT_EQ(memory_limit(root.path()), memory_limit("/nowhere"));
  root.write("sys/fs/cgroup/job/memory.max", "3000000\n");
  EXPECT_EQ(memory_limit(root.path()), 3000000);
  root.write("sys/fs/cgroup/job/step/memory.max", "2000000\n");
  EXPECT_EQ(memory_limit(root.path()), 2000000);
  root.write("sys/fs/cgroup/memory.max", "1000000\n");
  EXPECT_EQ(memory_limit(root.path()), 1000000);
}

TEST(MemoryLimit, KnowsTheMemoryControllerOfVersion1) {
  const TemporaryFolder root;
  root.write("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n");
  root.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000000\n");
  EXPECT_EQ(memory_limit(root.path()), 4000000);
}

TEST(MemoryLimit, WithoutCgroupsIsTheMachines) {
  EXPECT_GT(memory_limit("/nowhere"), std::int64_t{1} << 27);
}

TEST(ThreadLimit, IsTheSmallestOfTheKernelsAndTheCgroups) {
  const TemporaryFolder root;
  root.write("proc/sys/kernel/threads-max", "9000\n");
  EXPECT_EQ(thread_limit(root.path()), 9000);
  root.write("proc/sys/kernel/pid_max", "8000\n");
  EXPECT_EQ(thread_limit(root.path()), 8000);
  root.write("proc/sys/vm/max_map_count", "14000\n");
  EXPECT_EQ(thread_limit(root.path()), 7000);
  root.write("proc/self/cgroup", "4:pids:/a\n0::/b\n");
  root.write("sys/fs/cgroup/pids/a/pids.max", "6000\n");
  EXPECT_EQ(thread_limit(root.path()), 6000);
  root.write("sys/fs/cgroup/b/pids.max", "5000\n");
  EXPECT_EQ(thread_limit(root.path()), 5000);
}

}  // namespace
}  // namespace pf
