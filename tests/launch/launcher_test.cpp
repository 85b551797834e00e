// launch/pentafold and launch/rank with a program that takes longer to save than mpirun waits.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/launch/shell.h"

namespace pf {
namespace {

namespace fs = std::filesystem;

// Says ready.RANK; at SIGUSR1 saves for three seconds, says saved.RANK and ends as training does.
constexpr const char* slow_program = R"(#!/bin/sh
rank=${OMPI_COMM_WORLD_RANK:-0}
trap 'sleep 3; touch saved.$rank; exit 138' USR1
trap 'touch saved.$rank; exit 143' TERM
touch ready.$rank
while :; do sleep 0.05; done
)";

class Launcher : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(here.path("launch"));
    for (const std::string name : {"pentafold", "rank"})
      fs::copy_file(PENTAFOLD_SOURCE_DIR "/launch/" + name, here.path("launch/" + name));
    write_program("launch/setup", "#!/bin/sh\n");
    write_program("build/pentafold", slow_program);
  }

  void write_program(const std::string& name, const std::string& text) {
    fs::permissions(here.write(name, text), fs::perms::owner_all);
  }

  TemporaryFolder here;
};

TEST_F(Launcher, GivesTheRanksTheTimeToSaveWhateverSignalItGets) {
  const Outcome outcome = in_shell(
      here,
      "try() { mkdir $1; cd $1; env --default-signal=INT ../launch/pentafold train x --mpi 2 & "
      "until [ -e ready.0 ] && [ -e ready.1 ]; do sleep 0.05; done; "
      "kill -$1 $!; wait $!; echo $1 $? >code; ls saved.* >>code; }; "
      "for s in HUP INT USR1 TERM; do (try $s) & done; wait; cat */code");
  EXPECT_EQ(outcome.out,
            "HUP 129\nsaved.0\nsaved.1\nINT 130\nsaved.0\nsaved.1\nTERM 143\nsaved.0\nsaved.1\n"
            "USR1 138\nsaved.0\nsaved.1\n")
      << outcome.err;
}

TEST_F(Launcher, ASignalToARanksWrapperReachesItsProgram) {
  const Outcome outcome = in_shell(
      here,
      "launch/rank build/pentafold & until [ -e ready.0 ]; do sleep 0.05; done; kill -TERM $!; "
      "wait $!; echo $?; ls saved.0");
  EXPECT_EQ(outcome.out, "143\nsaved.0\n");
  EXPECT_EQ(outcome.err, "");
}

}  // namespace
}  // namespace pf
