// `pentafold schedule`: how a pipeline's ranks spend a step.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "parallel/schedule.h"

namespace pf {

struct ScheduleCommand {
  std::string kind, output, measured;
  int stages = 0, micro_batches = 0, chunks = 0;  // 0: not given
  double forward = 1, input = 1, weight = 1;      // of a whole rank's layers

  void add_to(CLI::App& app);
  // Returns the exit code 0. Sets `failure`, which is that of an Error, to 1 where what is wrong is
  // not the input.
  int run(int& failure) const;
  // Unless given, interleaved and zbv have 2 chunks.
  ScheduleShape shape_of(ScheduleKind of_kind) const;

 private:
  void check_numbers() const;
};

}  // namespace pf
