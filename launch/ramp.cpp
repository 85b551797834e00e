#include "launch/ramp.h"

namespace pf {

StepBatch batch_of(const config::Train& c, std::int64_t step) {
  const std::int64_t whole = c.global_batch();
  if (!c.has_ramp()) return {step * whole, whole};
  const config::Ramp& r = c.ramp();
  // `rises` sizes are below the whole one; the first n of them have n (2 start + (n - 1) by) / 2
  // samples for each of the `every` steps.
  const std::int64_t rises = (whole - r.start() + r.by() - 1) / r.by();
  const auto samples_in = [&](std::int64_t n) {
    return r.every() * (n * r.start() + n * (n - 1) / 2 * r.by());
  };
  const std::int64_t level = step / r.every();
  if (level >= rises) return {samples_in(rises) + (step - rises * r.every()) * whole, whole};
  const std::int64_t size = r.start() + level * r.by();
  return {samples_in(level) + (step - level * r.every()) * size, size};
}

}  // namespace pf
