#include "launch/learner.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "launch/lora.h"
#include "launch/ramp.h"
#include "launch/run_mesh.h"
#include "models/metrics.h"

namespace pf {

Learner::Learner(const config::Config& config, const Mesh& mesh, Read read)
    : config_(config),
      mesh_(mesh),
      read_(std::move(read)),
      type_(type_of(config.run().precision())),
      model_(config.model(), options_of(config, mesh), mesh) {
  const auto visit = [this](const Visitor& visitor) { model_.visit(visitor); };
  choose_trained(config.train(), visit);
  gradients_.emplace(mesh, trained_parameters(model_), sharing_of(config), [&](std::size_t layer) {
    model_.initialise(std::uint64_t(config.run().seed()), layer);
  });
  {
    const PurposeScope of_part(parts::states);
    optimizer_ = make_optimizer(config.optimizer(), mesh, gradients_->parts(), visit);
  }
  balance_.emplace(mesh, balance_group(config, mesh.size(axes::dp)));
  pipeline_.emplace(schedule_of(config), model_, *gradients_, *balance_, mesh);
}

// Counts what the batch holds before any of it runs: the loss is divided once.
void Learner::read_batch(std::int64_t step) {
  const std::int64_t dp = mesh_.size(axes::dp), replica = mesh_.coordinate(axes::dp);
  const std::int64_t size = config_.train().micro_batch(), length = config_.data().sequence();
  const StepBatch batch = batch_of(config_.train(), step);
  micro_batches_.clear();
  double targets = 0, tokens = 0;
  for (std::int64_t j = replica; j * size < batch.size; j += dp) {
    const std::int64_t first = j * size, count = std::min(size, batch.size - first);
    micro_batches_.push_back({j, batch.first + first, read_(batch.first + first, count)});
    targets += double(micro_batches_.back().windows.targets_that_count());
    tokens += double(micro_batches_.back().windows.ids.size());
  }
  const std::vector<double> sums = sum_over_replicas(mesh_, {targets, tokens});
  targets_ = std::max(1.0, sums[0]);
  tokens_ = sums[1];
  // Nobody adds on meta.
  require(mesh_.device().kind() == DeviceKind::meta || tokens_ == double(batch.size * length),
          "step ", step + 1, ": the replicas read ", tokens_, " tokens; the global batch has ",
          batch.size, " x ", length);
}

void Learner::prepare(Context& context, const MicroBatch& micro_batch, std::int64_t step) {
  context.mesh = &mesh_;
  context.batch = make_batch(mesh_, micro_batch.windows.sequences(micro_batch.first_sample), type_);
  context.type = type_;
  context.seed = std::uint64_t(config_.run().seed());
  context.step = step;
  context.micro_batch = micro_batch.number;
  context.targets = targets_;
  context.tokens = tokens_;
  context.is_training = true;
  context.balance = &*balance_;
}

std::vector<Statistics> Learner::run(std::int64_t step,
                                     const std::function<void(const char*)>& enter) {
  gradients_->clear();
  balance_->clear();
  enter("data");
  read_batch(step);
  PipelineHooks hooks;
  hooks.prepare = [&](Context& context, std::int64_t n) {
    prepare(context, micro_batches_[std::size_t(n)], step);
  };
  hooks.enter = enter;
  return pipeline_->run(std::ssize(micro_batches_), hooks);
}

void Learner::change_weights(double lr, double scale,
                             const std::vector<std::vector<double>>& expert_counts) {
  const PurposeScope of_part("optimizer");
  optimizer_->step(lr, scale);
  gradients_->share_values();
  if (!config_.train().has_lora()) model_.update_biases(expert_counts);
}

std::vector<StateTensor> Learner::state() {
  return training_state(mesh_, *gradients_, optimizer_.get(),
                        [this](const Visitor& visitor) { model_.visit(visitor); });
}

void Learner::restore(const Checkpoint& checkpoint) {
  read_state(checkpoint, state());
  optimizer_->restored(checkpoint.facts().counts.at("optimizer_steps"));
  gradients_->share_values();
  gradients_->wait_for_values();
}

ModelSize trained_size(const config::Config& config) {
  return model_size(config.model(), config.data().sequence(), [&](Transformer& model) {
    choose_trained(config.train(), [&](const Visitor& visitor) { model.visit(visitor); });
  });
}

}  // namespace pf
