// A small model on one rank of a mesh, for tests: a step over given samples, and all that it gives.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "models/balance.h"
#include "models/metrics.h"
#include "models/stage.h"
#include "models/transformer.h"
#include "tests/tensors.h"

namespace pf {

// A global batch: `count` sequences. mask is 1 where there is a token, whose target counts.
struct Samples {
  std::int64_t count = 0, length = 0;
  std::vector<std::int32_t> ids, targets;
  std::vector<double> mask;

  double tokens() const { return std::accumulate(mask.begin(), mask.end(), 0.0); }
};

// Of random tokens. The numbers of valid targets of one sequence, the next, ... are: all, one,
// none, about two thirds, and so on; no two replicas have equal work.
inline Samples uneven_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary,
                              std::uint64_t seed = 1) {
  const Random random{seed, 99, 0};
  Samples samples{count, length, {}, {}, {}};
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t t = 0; t < length; ++t) {
      const auto words = random.words(std::uint64_t(s * length + t));
      samples.ids.push_back(std::int32_t(words[0] % vocabulary));
      samples.targets.push_back(std::int32_t(words[1] % vocabulary));
      const bool kept[] = {true, t == length / 2, false, words[2] % 3 != 0};
      samples.mask.push_back(kept[s % 4] ? 1 : 0);
    }
  }
  return samples;
}

// The same with every target counting.
inline Samples even_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary) {
  Samples samples = uneven_samples(count, length, vocabulary);
  std::ranges::fill(samples.mask, 1);
  return samples;
}

// Two layers, four experts of which a token sees two, and auxiliary losses as large as the loss.
inline config::Model small_moe(config::Balance::Kind kind = config::Balance::micro) {
  config::Model model;
  model.set_vocabulary(11);
  model.set_hidden(8);
  model.set_layers(2);
  model.set_heads(2);
  model.set_kv_heads(1);
  model.set_head_dim(4);
  model.set_ffn(10);
  model.set_init_std(0.5);
  config::Moe& moe = *model.mutable_moe();
  moe.set_experts(4);
  moe.set_top_k(2);
  moe.set_ffn(6);
  moe.set_shared_ffn(6);
  moe.set_z_loss(0.1);
  moe.mutable_balance()->set_kind(kind);
  moe.mutable_balance()->set_weight(0.7);
  return model;
}

// Matrices whose names end so get adapters, and nothing else is trained.
struct Adapted {
  std::vector<std::string> names = {};
  std::int64_t rank = 2;
  double scale = 1.5;
  double b_std = 0;  // B starts as zeros if this is 0
};

struct Recipe {
  config::Model model = small_moe();
  DType type = DType::f64;
  std::int64_t micro_batch = 1;  // sequences
  std::int64_t group = 1;        // micro-batches whose choices are counted together
  std::int64_t head_chunk = 1024;
  bool recomputes = false;
  bool defers = false;  // weight gradients until the micro-batch's backward is over
  std::uint64_t seed = 1;
  std::vector<std::string> frozen = {};  // parameters
  Sharing sharing = {};
  Adapted adapted = {};
};

using Numbers = std::vector<double>;

// What a step gives, the same on every rank.
struct Outcome {
  double loss = 0, balance_loss = 0, z_loss = 0, norm = 0;
  std::vector<Numbers> expert_counts;        // by MoE layer
  std::map<std::string, Numbers> gradients;  // whole, by parameter

  double sum() const { return loss + balance_loss + z_loss; }
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// max |a - b| over the largest of a's elements, or over 1e-3 of `scale` where that is more: some
// gradients are zero in exact arithmetic (docs/design.md, section 6).
inline double distance(const Numbers& a, const Numbers& b, double scale) {
  double largest = 1e-3 * scale, apart = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, std::abs(a[i]));
    apart = std::max(apart, std::abs(a[i] - b[i]));
  }
  return apart == 0 ? 0 : apart / largest;
}

// The largest of the distances of the losses, the norm and each gradient.
inline double distance(const Outcome& a, const Outcome& b) {
  double scale = 0;
  for (const auto& [name, gradient] : a.gradients)
    for (const double x : gradient) scale = std::max(scale, std::abs(x));
  double worst =
      a.gradients.size() == b.gradients.size() && a.expert_counts == b.expert_counts ? 0 : INFINITY;
  const Numbers of_a{a.loss, a.balance_loss, a.z_loss, a.norm};
  const Numbers of_b{b.loss, b.balance_loss, b.z_loss, b.norm};
  for (std::size_t i = 0; i < of_a.size(); ++i)
    worst = std::max(worst, distance({of_a[i]}, {of_b[i]}, 1));
  for (const auto& [name, gradient] : a.gradients) {
    const auto found = b.gradients.find(name);
    worst = std::max(
        worst, found == b.gradients.end() ? INFINITY : distance(gradient, found->second, scale));
  }
  return worst;
}

// One rank's part of a model in training.
class SmallModel {
 public:
  SmallModel(const Recipe& recipe, const Mesh& mesh, std::int64_t length);

  // Forward and backward over the global batch, of which this rank runs every dp-th micro-batch.
  Outcome step(const Samples& samples, std::int64_t step = 0);

  Transformer& transformer() { return transformer_; }
  Gradients& gradients() { return *gradients_; }
  Parameter& parameter(const std::string& name);
  std::map<std::string, Numbers> weights();
  // "f64 [10, 8] ..." of the outputs of all layers, of each of the last step's micro-batches.
  const std::vector<std::string>& outputs() const { return outputs_; }

 private:
  void adapt();
  void scatter_b();
  std::unique_ptr<Flight> make_flight(const Samples& samples, std::int64_t micro_batch,
                                      std::int64_t step);
  void backward(Flight& flight, bool is_last);

  Recipe recipe_;
  const Mesh* mesh_;
  Transformer transformer_;
  std::optional<Gradients> gradients_;
  std::optional<Stage> stage_;
  Balance balance_;
  std::vector<std::string> outputs_;
};

inline SmallModel::SmallModel(const Recipe& recipe, const Mesh& mesh, std::int64_t length)
    : recipe_(recipe),
      mesh_(&mesh),
      transformer_(recipe.model, {length, recipe.head_chunk, recipe.type}, mesh),
      balance_(mesh, recipe.group) {
  if (!recipe.adapted.names.empty()) adapt();
  transformer_.initialise(recipe.seed);
  if (recipe.adapted.b_std > 0) scatter_b();
  for (const std::string& name : recipe.frozen) parameter(name).freeze();
  gradients_.emplace(mesh, trained_parameters(transformer_), recipe.sharing);
  stage_.emplace(transformer_.layers(), *gradients_, recipe.recomputes);
}

inline void SmallModel::adapt() {
  std::vector<Parameter*> all;
  transformer_.visit({.parameter = [&](Parameter& w) { all.push_back(&w); }});
  for (Parameter* w : all) w->freeze();
  for (const std::string& name : recipe_.adapted.names)
    for (Parameter* w : all)
      if (w->name().ends_with(name)) w->adapt(recipe_.adapted.rank, recipe_.adapted.scale);
}

// Random numbers, another stream for each.
inline void SmallModel::scatter_b() {
  std::uint32_t stream = 1000;
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (!w.name().ends_with(".lora.b")) return;
    const std::span<const std::int64_t> begin(w.block().begin);
    backend(w.value()).normal(w.value(), {recipe_.seed, ++stream, 0}, recipe_.adapted.b_std,
                              w.whole(), begin.first(std::size_t(w.whole().dims())));
    w.changed();
  }});
}

inline std::unique_ptr<Flight> SmallModel::make_flight(const Samples& samples,
                                                       std::int64_t micro_batch,
                                                       std::int64_t step) {
  const std::int64_t first = micro_batch * recipe_.micro_batch;
  const auto begin = std::size_t(first * samples.length);
  const auto size = std::size_t(recipe_.micro_batch * samples.length);
  auto flight = std::make_unique<Flight>();
  Context& context = flight->context;
  context.mesh = mesh_;
  context.batch = make_batch(*mesh_,
                             {.count = recipe_.micro_batch,
                              .first_sample = step * samples.count + first,
                              .ids = std::span(samples.ids).subspan(begin, size),
                              .targets = std::span(samples.targets).subspan(begin, size)},
                             recipe_.type);
  for (const Tensor& mask : {context.batch.mask, context.batch.present}) {
    for (std::size_t t = 0; t < size && !mask.is_meta(); ++t) {
      const Tensor one = mask.rows(std::int64_t(t), std::int64_t(t) + 1);
      backend(one).fill(one, samples.mask[begin + t]);
    }
  }
  context.type = recipe_.type;
  context.seed = recipe_.seed;
  context.step = step;
  context.micro_batch = micro_batch;
  context.targets = samples.tokens();
  context.tokens = samples.tokens();
  context.is_training = true;
  context.balance = &balance_;
  return flight;
}

inline void SmallModel::backward(Flight& flight, bool is_last) {
  if (!recipe_.defers) return stage_->backward(flight, is_last);
  std::vector<Tape::Work> later;
  std::vector<Tensor> ys, dys;
  for (std::size_t l = flight.steps.size(); l-- > 0;) {
    Flight::Step& step = flight.steps[l];
    step.tape.backward(ys, dys, &later);
    ys.clear();
    dys.clear();
    if (l > 0 && step.x.slot().index >= 0) {
      ys = {flight.steps[l - 1].y};
      dys = {step.tape.gradient(step.x)};
    }
    step = {};
  }
  for (const Tape::Work& work : later) work();
  for (std::size_t l = flight.steps.size(); l-- > 0 && is_last;) gradients_->start(l);
}

inline Outcome SmallModel::step(const Samples& samples, std::int64_t step) {
  gradients_->clear();
  balance_.clear();
  outputs_.clear();
  const std::int64_t dp = mesh_->size(axes::dp), replica = mesh_->coordinate(axes::dp);
  const std::int64_t count = samples.count / recipe_.micro_batch / dp;
  std::vector<Statistics> statistics;
  for (std::int64_t first = 0; first < count; first += balance_.steps_together()) {
    const std::int64_t end = std::min(count, first + balance_.steps_together());
    std::vector<std::unique_ptr<Flight>> flights;
    for (std::int64_t a = first; a < end; ++a) {
      flights.push_back(make_flight(samples, a * dp + replica, step));
      stage_->forward(*flights.back());
      for (const Flight::Step& s : flights.back()->steps)
        if (s.y) outputs_.push_back(s.y.text());
    }
    balance_.bind();
    for (std::size_t i = 0; i < flights.size(); ++i) {
      backward(*flights[i], end == count && i + 1 == flights.size());
      statistics.push_back(std::move(flights[i]->context.statistics));
      flights[i].reset();
    }
  }
  Outcome out;
  out.norm = gradients_->finish();
  std::vector<const Statistics*> all;
  all.reserve(statistics.size());
  for (const Statistics& s : statistics) all.push_back(&s);
  const StepStatistics sums = over_mesh(*mesh_, all, 0, recipe_.type);
  out.loss = sums.loss;
  out.balance_loss = sums.balance_loss;
  out.z_loss = sums.z_loss;
  out.expert_counts = sums.expert_counts;
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (!w.is_trainable()) return;
    require(w.shape() == w.whole(), w.name(), " is cut: ", w.shape(), " of ", w.whole());
    out.gradients[w.name()] = elements(w.gradient());
  }});
  return out;
}

inline Parameter& SmallModel::parameter(const std::string& name) {
  Parameter* found = nullptr;
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (w.name() == name) found = &w;
  }});
  require(found != nullptr, "no parameter ", name);
  return *found;
}

inline std::map<std::string, Numbers> SmallModel::weights() {
  std::map<std::string, Numbers> out;
  transformer_.visit({.parameter = [&](Parameter& w) { out[w.name()] = elements(w.value()); }});
  return out;
}

}  // namespace pf
