#include "launch/prove_checkpoint.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <limits>
#include <mutex>
#include <optional>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/philox.h"
#include "launch/dice.h"
#include "launch/learner.h"
#include "launch/prove_optimizers.h"
#include "launch/run_mesh.h"
#include "launch/signals.h"
#include "launch/terminal.h"
#include "optim/training_state.h"
#include "parallel/checkpoint_boxes.h"
#include "parallel/checkpoint_files.h"

namespace pf {
namespace {

constexpr int steps = 3, saved_step = 2;
constexpr std::size_t parts_of_trial = 3;
constexpr std::int64_t most_ranks = 8;
constexpr std::uint32_t stream = 7;  // of draws

// Goes with the scope.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string path = (std::filesystem::temp_directory_path() / "pentafold-prove-XXXXXX").string();
    require(mkdtemp(path.data()) != nullptr, path,
            ": can't be made: ", std::generic_category().message(errno));
    path_ = path;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What all ranks save.
class SavedPieces {
 public:
  // Each rank calls.
  void add(std::span<const StateTensor> state) {
    const std::lock_guard lock(mutex_);
    for (SavedPiece& piece : pieces_of(state)) {
      const Tensor copy = Tensor::empty(piece.data.shape(), piece.data.dtype(), device_);
      backend(copy).copy(copy, piece.data);
      piece.data = copy;
      all_.push_back(std::move(piece));
    }
  }
  const std::vector<SavedPiece>& all() const { return all_; }

 private:
  Device device_{make_cpu_backend(1)};
  std::mutex mutex_;
  std::vector<SavedPiece> all_;
};

// Files of them.
class TrialCheckpoint {
 public:
  explicit TrialCheckpoint(const SavedPieces& saved) {
    std::vector<std::vector<SavedPiece>> pieces(parts_of_trial);
    for (std::size_t i = 0; i < saved.all().size(); ++i)
      pieces[i % parts_of_trial].push_back(saved.all()[i]);
    const std::atomic<bool> is_given_up = false;
    std::vector<PartFile> parts;
    parts.reserve(pieces.size());
    for (const std::vector<SavedPiece>& of_part : pieces)
      parts.push_back(write_part(folder_.path(), int(parts.size()), of_part, is_given_up));
    write_master(folder_.path(), {{{"step", saved_step}, {"optimizer_steps", saved_step}}, {}, {}},
                 parts);
    checkpoint_.emplace(folder_.path());
    for (int part = 0; part < checkpoint_->parts(); ++part) checkpoint_->verify(part);
  }
  const Checkpoint& operator*() const { return *checkpoint_; }

 private:
  ScratchFolder folder_;
  std::optional<Checkpoint> checkpoint_;
};

// Whole tensors by name, NaN where no rank saves them.
using Content = std::map<std::string, Numbers>;

Content content_of(const SavedPieces& saved) {
  Content content;
  for (const SavedPiece& piece : saved.all()) {
    Numbers& whole = content[piece.tensor];
    whole.resize(std::size_t(piece.whole.size()), std::numeric_limits<double>::quiet_NaN());
    const Numbers data = piece.data.to_vector<double>();
    auto from = data.begin();
    for (const Block& box : boxes_of(piece.block, piece.begin, piece.end))
      for (const Run& run : runs_of(box, box, {{}, piece.whole})) {
        std::copy_n(from, run.size, whole.begin() + run.to);
        from += run.size;
      }
  }
  return content;
}

// What is not restored is seen.
void forget(std::span<const StateTensor> state, const Visit& visit) {
  const auto fill = [](const Tensor& x) {
    if (x) backend(x).fill(x, std::numeric_limits<double>::quiet_NaN());
  };
  visit({.parameter = [&](Parameter& w) { fill(w.value()); }});
  for (const StateTensor& t : state) {
    const Tensor x = t.state.load();
    fill(x);
    t.state.save(x);
  }
}

Descent interrupted(const config::Config& first, const config::Config& second) {
  const Samples samples = samples_of(first);
  SavedPieces saved;
  Descent out;
  const auto run = [&](const Mesh& mesh, SmallModel& model, int from, int to) {
    for (int step = from; step < to; ++step) {
      StepOutcome outcome = descend(model, samples, step);
      if (mesh.rank() == 0) out.steps.push_back(std::move(outcome));
    }
  };
  on_thread_ranks(layout_of(first), [&](const Mesh& mesh) {
    SmallModel model(recipe_of(first), mesh, samples.length);
    const auto visit = [&](const Visitor& visitor) { model.transformer().visit(visitor); };
    run(mesh, model, 0, saved_step);
    saved.add(training_state(mesh, model.gradients(), nullptr, visit));
  });
  const TrialCheckpoint files(saved);
  on_thread_ranks(layout_of(second), [&](const Mesh& mesh) {
    SmallModel model(recipe_of(second), mesh, samples.length);
    const auto visit = [&](const Visitor& visitor) { model.transformer().visit(visitor); };
    const auto state = training_state(mesh, model.gradients(), nullptr, visit);
    forget(state, visit);
    read_state(*files, state);
    model.gradients().share_values();
    model.gradients().wait_for_values();
    run(mesh, model, saved_step, steps);
    auto weights = model.weights();
    if (mesh.rank() == 0) out.weights = std::move(weights);
  });
  return out;
}

// Of the choices of a step: some numbers, the same for every layout.
std::vector<std::vector<double>> expert_counts(const MoeLayers& layers, int step) {
  std::vector<std::vector<double>> counts(layers.numbers.size());
  for (std::size_t layer = 0; layer < counts.size(); ++layer)
    for (std::int64_t expert = 0; expert < layers.experts; ++expert)
      counts[layer].push_back(double((std::int64_t(layer) + expert * 3 + step) % 5));
  return counts;
}

// Steps [from, to) of a rank whose Learner has the optimizer, from `saved` if that is there.
void take_steps(const config::Config& config, const Mesh& mesh, int from, int to,
                const Checkpoint* saved, SavedPieces& end) {
  Learner learner(config, mesh, [](std::int64_t, std::int64_t) { return Windows(); });
  const auto visit = [&](const Visitor& visitor) { learner.model().visit(visitor); };
  if (saved != nullptr) {
    forget(learner.state(), visit);
    learner.restore(*saved);
  }
  const Sharing sharing = sharing_of(config);
  for (int step = from; step < to; ++step) {
    set_random_gradients(visit, learner.gradients(), sharing, std::uint64_t(config.run().seed()),
                         std::uint32_t(step));
    learner.change_weights(proven_lr, proven_gradient_scale,
                           expert_counts(learner.model().moe_layers(), step));
    learner.gradients().wait_for_values();
  }
  end.add(learner.state());
}

config::Config with(config::Config config, config::Optimizer::Kind kind) {
  config.mutable_optimizer()->set_kind(kind);
  config.mutable_run()->set_precision(config::Run::f64);
  return config;
}

// What training would go on from after the last step.
Content trained(const config::Config& config) {
  SavedPieces end;
  on_thread_ranks(layout_of(config),
                  [&](const Mesh& mesh) { take_steps(config, mesh, 0, steps, nullptr, end); });
  return content_of(end);
}

Content trained(const config::Config& first, const config::Config& second) {
  SavedPieces saved, end;
  on_thread_ranks(layout_of(first), [&](const Mesh& mesh) {
    take_steps(first, mesh, 0, saved_step, nullptr, saved);
  });
  const TrialCheckpoint files(saved);
  on_thread_ranks(layout_of(second), [&](const Mesh& mesh) {
    take_steps(second, mesh, saved_step, steps, &*files, end);
  });
  return content_of(end);
}

// One rank that nobody interrupts.
struct OneRank {
  const Descent& descent;
  std::map<config::Optimizer::Kind, Content> optimizers = {};

  OneRank(const config::Config& config, const Descent& of_descent) : descent(of_descent) {
    for (const config::Optimizer::Kind kind : proven_optimizers)
      optimizers[kind] = trained(with(on_one_rank(config), kind));
  }
};

Proof prove_going_on(const config::Config& config, const OneRank& one_rank) {
  const config::Config second = layout_to_go_on(config);
  Proof proof;
  const auto add = [&](const Difference& found, const std::string& of) {
    proof.worst.add(found.distance, of + found.where + "; " + axes_text(second) + " goes on");
  };
  try {
    add(difference(one_rank.descent, interrupted(config, second)), "");
    for (const auto& [kind, content] : one_rank.optimizers)
      add(difference(content, trained(with(config, kind), with(second, kind))),
          std::string(name_of(kind)) + "'s ");
  } catch (const Error& error) {
    proof.error = error.what() + ("; " + axes_text(second) + " goes on");
  }
  return proof;
}

}  // namespace

config::Config layout_to_go_on(const config::Config& config) {
  const config::Parallel& p = config.parallel();
  const auto axes =
      std::uint32_t(p.tp() + 31 * (p.cp() + 31 * (p.ep() + 31 * (p.etp() + 31 * p.pp()))));
  Dice dice(Random{std::uint64_t(config.run().seed()), stream, axes});
  config::Config other = config;
  config::Parallel& parallel = *other.mutable_parallel();
  parallel.set_ranks(1 + dice.below(most_ranks));
  parallel.set_zero(dice.below(4));
  parallel.set_zero_shard(0);
  const LayoutsOfModel layouts = layouts_of(other, {});
  return layouts.legal.empty() ? on_one_rank(config) : dice.one_of(layouts.legal);
}

Proof prove_going_on(const config::Config& config, const Descent& one_rank) {
  try {
    return prove_going_on(config, OneRank(config, one_rank));
  } catch (const Error& error) {
    return {{}, std::string("one rank: ") + error.what()};
  }
}

int prove_going_on(const LayoutsOfModel& layouts, const Descent& one_rank) {
  const SignalScope signals;  // scratch folders go
  const OneRank alone(layouts.legal.front(), one_rank);
  Proof worst;
  const config::Config* where = nullptr;
  std::size_t failed = 0;
  for (const config::Config& layout : layouts.legal) {
    if (pending_signal() != 0) return 128 + pending_signal();
    const Proof proof = prove_going_on(layout, alone);
    failed += proof.holds() ? 0 : 1;
    if (!worst.error.empty()) continue;
    if (proof.error.empty() && proof.worst.distance < worst.worst.distance) continue;
    worst = proof;
    where = &layout;
  }
  const std::size_t count = layouts.legal.size();
  if (failed == 0)
    print(fmt::format("saved, and gone on with another layout: {:.1e} ({}) after {} layout{}\n",
                      worst.worst.distance, worst.worst.where, count, count == 1 ? "" : "s"));
  else
    print(fmt::format(
        "checkpoints NOT PROVEN: {} of {} layouts differ from one rank; the worst, {}:\n  {}\n",
        failed, count, axes_text(*where), worst.text()));
  return failed == 0 ? 0 : 1;
}

}  // namespace pf
