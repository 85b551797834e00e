#include "models/trial.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "parallel/table.h"

namespace pf {

namespace {

double sum(const Numbers& x) {
  return std::accumulate(x.begin(), x.end(), 0.0);
}

// The rows of `ranges`, from what there is of all tokens; those of the micro-batch begin at
// `begin`.
void fill(const Tensor& x, const Numbers& all, std::int64_t begin,
          std::span<const RowRange> ranges) {
  for (const RowRange& range : ranges)
    for (std::int64_t t = 0; t < range.size() && !x.is_meta(); ++t)
      backend(x).fill(x.rows(range.row + t, range.row + t + 1),
                      all[std::size_t(begin + range.begin + t)]);
}

}  // namespace

double Samples::targets_that_count() const {
  return sum(mask);
}

double Samples::tokens() const {
  return sum(present());
}

Samples uneven_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary,
                       std::uint64_t seed) {
  const Random random{seed, 99, 0};
  Samples samples{.count = count, .length = length, .ids = {}, .targets = {}, .mask = {}};
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t t = 0; t < length; ++t) {
      const auto words = random.words(std::uint64_t(s * length + t));
      auto id = std::int32_t(words[0] % vocabulary);
      if (t > 0 && id == samples.ids.back()) id = std::int32_t((id + 1) % vocabulary);
      samples.ids.push_back(id);
      samples.targets.push_back(std::int32_t(words[1] % vocabulary));
      const bool kept[] = {true, t == length / 2, false, words[2] % 3 != 0};
      samples.mask.push_back(kept[s % 4] ? 1 : 0);
    }
  }
  return samples;
}

Samples even_samples(std::int64_t count, std::int64_t length, std::int64_t vocabulary) {
  Samples samples = uneven_samples(count, length, vocabulary);
  std::ranges::fill(samples.mask, 1);
  return samples;
}

config::Model small_moe(config::Balance::Kind kind) {
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

SmallModel::SmallModel(const Recipe& recipe, const Mesh& mesh, std::int64_t length)
    : recipe_(recipe),
      mesh_(&mesh),
      transformer_(recipe.model,
                   {length, recipe.head_chunk, recipe.type, recipe.cp_method, recipe.recompute},
                   mesh),
      balance_(mesh, recipe.group) {
  if (!recipe.adapted.names.empty()) adapt();
  for (const std::string& name : recipe.frozen) parameter(name).freeze();
  std::uint32_t stream = 1000;
  gradients_.emplace(mesh, trained_parameters(transformer_), recipe.sharing,
                     [&](std::size_t layer) {
                       transformer_.initialise(recipe.seed, layer);
                       if (recipe.adapted.b_std > 0) scatter_b(layer, stream);
                     });
  stage_.emplace(transformer_.layers(), *gradients_);
}

void SmallModel::adapt() {
  std::vector<Parameter*> all;
  transformer_.visit({.parameter = [&](Parameter& w) { all.push_back(&w); }});
  for (Parameter* w : all) w->freeze();
  for (const std::string& name : recipe_.adapted.names)
    for (Parameter* w : all)
      if (w->name().ends_with(name)) w->adapt(recipe_.adapted.rank, recipe_.adapted.scale);
}

// Random numbers, another stream for each.
void SmallModel::scatter_b(std::size_t layer, std::uint32_t& stream) {
  transformer_.layers()[layer]->visit({.parameter = [&](Parameter& w) {
    if (!w.name().ends_with(".lora.b")) return;
    const std::span<const std::int64_t> begin(w.block().begin);
    backend(w.value()).normal(w.value(), {recipe_.seed, ++stream, 0}, recipe_.adapted.b_std,
                              w.whole(), begin.first(std::size_t(w.whole().dims())));
    w.changed();
  }});
}

Batch SmallModel::batch_of(const Samples& samples, std::int64_t first, std::int64_t step) const {
  const std::int64_t count = std::min(recipe_.micro_batch, samples.count - first);
  const std::int64_t begin = first * samples.length, size = count * samples.length;
  std::vector<std::int64_t> starts;
  for (const std::int64_t start : samples.starts)
    if (start >= begin && start < begin + size) starts.push_back(start - begin);
  const auto part = [&](const std::vector<std::int32_t>& all) {
    return std::span(all).subspan(std::size_t(begin), std::size_t(size));
  };
  Batch batch = make_batch(*mesh_,
                           {.count = count,
                            .first_sample = step * samples.count + first,
                            .ids = part(samples.ids),
                            .targets = part(samples.targets),
                            .starts = starts},
                           recipe_.type);
  fill(batch.mask, samples.mask, begin, batch.queries);
  fill(batch.present, samples.present(), begin, batch.queries);
  return batch;
}

std::unique_ptr<Flight> SmallModel::make_flight(const Samples& samples, std::int64_t micro_batch,
                                                std::int64_t step) {
  const std::int64_t first = micro_batch * recipe_.micro_batch;
  auto flight = std::make_unique<Flight>();
  Context& context = flight->context;
  context.mesh = mesh_;
  context.batch = batch_of(samples, first, step);
  context.type = recipe_.type;
  context.seed = recipe_.seed;
  context.step = step;
  context.micro_batch = micro_batch;
  context.targets = samples.targets_that_count();
  context.tokens = samples.tokens();
  context.is_training = true;
  context.balance = &balance_;
  return flight;
}

void SmallModel::backward(Flight& flight, bool is_last) {
  if (!recipe_.defers) return stage_->backward(flight, is_last);
  std::vector<Tape::Work> later;
  std::vector<Tensor> ys, dys;
  for (std::size_t l = flight.steps.size(); l-- > 0;) {
    Flight::Step& step = flight.steps[l];
    const Gradients::Use weights = gradients_->use(l, l - 1);
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
  for (std::size_t l = flight.steps.size(); l-- > 0;) gradients_->start(l, is_last);
}

std::vector<Statistics> SmallModel::run_micro_batches(const Samples& samples, std::int64_t step) {
  const std::int64_t dp = mesh_->size(axes::dp), replica = mesh_->coordinate(axes::dp);
  const std::int64_t size = recipe_.micro_batch, all = (samples.count + size - 1) / size;
  require(all % dp == 0, "trial: ", all, " micro-batches for ", dp, " replicas");
  const std::int64_t count = all / dp;
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
  return statistics;
}

StepOutcome SmallModel::step(const Samples& samples, std::int64_t step) {
  gradients_->clear();
  balance_.clear();
  outputs_.clear();
  const std::vector<Statistics> statistics = run_micro_batches(samples, step);
  StepOutcome out;
  out.norm = gradients_->finish();
  std::vector<const Statistics*> all;
  all.reserve(statistics.size());
  for (const Statistics& s : statistics) all.push_back(&s);
  const StepStatistics sums = over_mesh(*mesh_, all, 0, recipe_.type);
  out.loss = sums.loss;
  out.balance_loss = sums.balance_loss;
  out.z_loss = sums.z_loss;
  out.expert_counts = sums.expert_counts;
  if (recipe_.sharing.ranks != 1) return out;
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable()) out.gradients[w.name()] = whole(w.gradient(), w, *mesh_);
  }});
  return out;
}

void SmallModel::descend(double lr) {
  for (const Part& part : gradients_->parts()) {
    const Tensor w = part.value(), change = Tensor::like(w);
    backend(w).scale(change, part.gradient(), -lr);
    const Tensor terms[] = {w, change};
    backend(w).add(w, terms);
    part.parameter->changed();
  }
  gradients_->share_values();
  gradients_->wait_for_values();
}

Parameter& SmallModel::parameter(const std::string& name) {
  Parameter* found = nullptr;
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (w.name() == name) found = &w;
  }});
  require(found != nullptr, "no parameter ", name);
  return *found;
}

std::map<std::string, Numbers> SmallModel::weights() {
  std::map<std::string, Numbers> out;
  for (std::size_t l = 0; l < transformer_.layers().size(); ++l) {
    const Gradients::Use weights = gradients_->use(l, l + 1);
    transformer_.layers()[l]->visit(
        {.parameter = [&](Parameter& w) { out[w.name()] = whole(w.value(), w, *mesh_); }});
  }
  return out;
}

namespace {

// Element `index` of a block, row-major, is that element of the whole.
std::int64_t place_in_whole(std::int64_t index, const Block& block, const Shape& whole) {
  std::int64_t place = 0, stride = 1;
  for (int dim = whole.dims() - 1; dim >= 0; --dim) {
    const std::int64_t extent = block.extents[dim];
    place += (block.begin[std::size_t(dim)] + index % extent) * stride;
    index /= extent;
    stride *= whole[dim];
  }
  return place;
}

bool is_same(double a, double b) {
  return a == b || (a != a && b != b);
}

}  // namespace

Numbers whole(const Tensor& x, const Parameter& w, const Mesh& mesh) {
  Axes copies;  // along these, ranks hold the same
  Label of_copies = constant(w.label());
  for (const Axis a : axes_of(w.label().view)) {
    if (is_varying(w.label()[a])) continue;
    copies.push_back(a);
    of_copies = of_copies.with({a}, Spread::rows);
  }
  const Tensor mine = cast(x.detached(), DType::f64).labelled(of_copies);
  Numbers block = mine.to_vector<double>();
  require(std::ranges::equal(block, all_max(mine, mesh, copies).to_vector<double>(), is_same),
          w.name(), ": ranks of ", name(copies), " hold other values than this one");
  if (w.shape() == w.whole()) return block;

  const Label sum =
      constant(dense(Spread::partial, Spread::partial, Spread::partial, Spread::partial));
  const Tensor all = Tensor::zeros(w.whole(), DType::f64, x.device(), sum);
  if (!all.is_meta() && mesh.coordinate(copies) == 0)
    for (std::size_t i = 0; i < block.size(); ++i)
      all.data<double>()[place_in_whole(std::int64_t(i), w.block(), w.whole())] = block[i];
  return all_reduce(all, mesh, axes_of(View::dense)).to_vector<double>();
}

}  // namespace pf
