#include "models/trial.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/ops/elementwise.h"
#include "parallel/table.h"

namespace pf {

namespace {

// The axes along which ranks of a stage hold the same of w, and the label of what need not be the
// same yet.
std::pair<Axes, Label> copies_of(const Parameter& w) {
  Axes copies;
  Label label = constant(w.label()).with(axes::pp, Spread::layers);
  for (const Axis a : axes_of(label.view)) {
    if (is_varying(label[a])) continue;
    copies.push_back(a);
    label = label.with({a}, Spread::rows);
  }
  return {copies, label};
}

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
      const bool kept[] = {words[2] % 3 != 0, t == length / 2, false, true};
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

// The same for equal numbers, of any sign of zero and any NaN; a whole number that a double holds.
double digest(const Numbers& x) {
  std::uint64_t hash = 0;
  for (const double element : x) {
    const bool is_number = element == element;
    const auto bits = std::bit_cast<std::uint64_t>(element == 0 || !is_number ? 0.0 : element);
    hash = (hash ^ bits ^ (is_number ? 0 : 1)) * 0x9e3779b97f4a7c15 + 1;
    hash ^= hash >> 32;
  }
  return double(hash >> 11);
}

bool is_same(double a, double b) {
  return a == b || (a != a && b != b);
}

void adapt(Transformer& model, const Adapted& adapted) {
  if (adapted.names.empty()) return;
  std::vector<Parameter*> all;
  model.visit({.parameter = [&](Parameter& w) { all.push_back(&w); }});
  for (Parameter* w : all) w->freeze();
  for (const std::string& name : adapted.names)
    for (Parameter* w : all)
      if (w->name().ends_with(name)) w->adapt(adapted.rank, adapted.scale);
}

ModelOptions options_of(const Recipe& recipe, std::int64_t length, const Mesh& mesh) {
  const int parts = mesh.size(axes::pp) * recipe.chunks;
  return {length,
          recipe.head_chunk,
          recipe.type,
          recipe.cp_method,
          recipe.dispatcher,
          recipe.recompute,
          stages_of_rank(mesh, recipe.schedule, recipe.chunks,
                         divide_layers(layers_of(recipe.model), parts, recipe.stage_layers))};
}

}  // namespace

SmallModel::SmallModel(const Recipe& recipe, const Mesh& mesh, std::int64_t length)
    : recipe_(recipe),
      mesh_(&mesh),
      transformer_(recipe.model, options_of(recipe, length, mesh), mesh),
      balance_(mesh, recipe.group) {
  adapt(transformer_, recipe.adapted);
  transformer_.visit({.parameter = [&](Parameter& w) {
    if (std::ranges::find(recipe.frozen, w.name()) != recipe.frozen.end()) w.freeze();
  }});
  gradients_.emplace(mesh, trained_parameters(transformer_), recipe.sharing,
                     [&](std::size_t layer) {
                       transformer_.initialise(recipe.seed, layer);
                       Layer& made = *transformer_.layers()[layer];
                       if (recipe.adapted.b_std > 0) scatter_b(made);
                       if (recipe.is_nudged) nudge(made);
                     });
  pipeline_.emplace(recipe.schedule, transformer_, *gradients_, balance_, mesh);
}

// Random numbers, another stream for each, whichever stage holds it.
void SmallModel::scatter_b(Layer& layer) {
  layer.visit({.parameter = [&](Parameter& w) {
    if (!w.name().ends_with(".lora.b")) return;
    const std::span<const std::int64_t> begin(w.block().begin);
    std::uint32_t stream = 7;
    for (const char c : w.name()) stream = 31 * stream + std::uint8_t(c);
    backend(w.value()).normal(w.value(), {recipe_.seed, stream, 0}, recipe_.adapted.b_std,
                              w.whole(), begin.first(std::size_t(w.whole().dims())));
    w.changed();
  }});
}

void SmallModel::nudge(Layer& layer) {
  const Random random{recipe_.seed, 100, 0};
  layer.visit({.parameter = [&](Parameter& w) {
    const Tensor value = w.value();
    for (std::int64_t i = 0; i < value.size() && !value.is_meta(); ++i) {
      const bool up = random.words(std::uint64_t(i))[0] % 2 == 0;
      value.data<double>()[i] *= 1 + (up ? 1 : -1) * std::numeric_limits<double>::epsilon();
    }
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

void SmallModel::prepare(Context& context, const Samples& samples, std::int64_t micro_batch,
                         std::int64_t step) {
  context.mesh = mesh_;
  context.batch = batch_of(samples, micro_batch * recipe_.micro_batch, step);
  context.type = recipe_.type;
  context.seed = recipe_.seed;
  context.step = step;
  context.micro_batch = micro_batch;
  context.targets = samples.targets_that_count();
  context.tokens = samples.tokens();
  context.is_training = true;
  context.balance = &balance_;
}

std::vector<Statistics> SmallModel::run_micro_batches(const Samples& samples, std::int64_t step) {
  const std::int64_t dp = mesh_->size(axes::dp), replica = mesh_->coordinate(axes::dp);
  const std::int64_t size = recipe_.micro_batch, all = (samples.count + size - 1) / size;
  require(all % dp == 0, "trial: ", all, " micro-batches for ", dp, " replicas");
  PipelineHooks hooks;
  hooks.prepare = [&](Context& context, std::int64_t n) {
    prepare(context, samples, n * dp + replica, step);
  };
  hooks.after_forward = [&](const Flight& flight, LayerRange range) {
    for (std::size_t l = range.begin; l < range.end; ++l)
      if (flight.steps[l].y) outputs_.push_back(flight.steps[l].y.text());
  };
  return pipeline_->run(all / dp, hooks);
}

// Where replicas share, each has the sums of its part alone: what is not its own is the others'.
Tensor SmallModel::summed_gradient(Parameter& w) const {
  if (recipe_.sharing.ranks == 1) return w.gradient();
  const auto [copies, label] = copies_of(w);
  const Tensor block = Tensor::empty(w.shape(), w.type(), mesh_->device(), label);
  backend(block).fill(block, -std::numeric_limits<double>::infinity());
  const auto set_own = [&](const Tensor& x) {
    for (const Part& part : gradients_->parts())
      if (part.parameter == &w) backend(x).copy(part.of(x), part.gradient());
  };
  set_own(block);
  Tensor all = all_max(block, *mesh_, copies);
  set_own(all);  // so that whole() finds groups that have other sums
  return all;
}

StepOutcome SmallModel::step(const Samples& samples, std::int64_t step) {
  gradients_->clear();
  balance_.clear();
  outputs_.clear();
  const std::vector<Statistics> statistics = run_micro_batches(samples, step);
  StepOutcome out;
  out.norm = gradients_->finish();
  const StepStatistics sums = over_mesh(*mesh_, transformer_.moe_layers(), statistics, 0);
  out.loss = sums.loss;
  out.balance_loss = sums.balance_loss;
  out.z_loss = sums.z_loss;
  out.expert_counts = sums.expert_counts;
  const bool is_cut = recipe_.sharing.ranks != 1;
  out.gradients = collect(
      [this](Parameter& w) { return w.is_trainable() ? summed_gradient(w) : Tensor(); }, is_cut);
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
  return collect([](Parameter& w) { return w.value(); }, false);
}

// What a stage has of it is whole first; then the stages put their parts together.
std::map<std::string, Numbers> SmallModel::collect(const std::function<Tensor(Parameter&)>& of,
                                                   bool is_cut) {
  std::map<std::string, Numbers> own;
  std::set<std::string> copies;  // of what the first stage gives
  const auto add = [&](Parameter& w) {
    const Tensor x = of(w);
    if (!x) return;
    own[w.name()] = whole(x, w, *mesh_);
    if (w.label()[Axis::pp] != Spread::replicated || mesh_->size(axes::pp) == 1) return;
    constexpr double elsewhere = -std::numeric_limits<double>::infinity();
    Numbers& values = own[w.name()];
    if (is_cut && std::ranges::find(values, elsewhere) != values.end())
      std::ranges::replace(values, elsewhere, 0);
    else if (mesh_->coordinate({Axis::ends}) > 0)
      copies.insert(w.name());
  };
  for (std::size_t l = 0; l < transformer_.layers().size(); ++l) {
    const Gradients::Use in_use = gradients_->use(l, Gradients::none);
    transformer_.layers()[l]->visit({.parameter = add});
  }
  if (mesh_->size(axes::pp) == 1) return own;
  // Of a thousand ranks, most have no need of a whole model.
  if (mesh_->coordinate(axes::tp * axes::cp * axes::dp) > 0) return {};

  std::map<std::string, std::int64_t> begins;
  std::int64_t size = 0;
  FakeCommunicator alone(0, 1);
  Device device(make_meta_backend(make_cpu_backend(1)));
  const Mesh one(alone, device);
  Transformer model(recipe_.model, {.positions = 1}, one);
  adapt(model, recipe_.adapted);
  model.visit({.parameter = [&](Parameter& w) {
    begins[w.name()] = size;
    size += w.whole().size();
  }});
  const Label open =
      constant(dense(Spread::replicated, Spread::replicated, Spread::replicated, Spread::partial));
  const Tensor parts =
      Tensor::zeros({size + std::ssize(begins)}, DType::f64, mesh_->device(), open);
  std::int64_t number = 0;
  for (const auto& [name, begin] : begins) {
    const auto found = own.find(name);
    if (found != own.end() && !copies.contains(name) && !parts.is_meta()) {
      std::ranges::copy(found->second, parts.data<double>() + begin);
      parts.data<double>()[size + number] = 1;  // somebody has it
    }
    ++number;
  }
  const Numbers all = all_reduce(parts, *mesh_, axes::pp).to_vector<double>();
  std::map<std::string, Numbers> out;
  model.visit({.parameter = [&](Parameter& w) {
    const auto begin = all.begin() + begins[w.name()];
    const auto index = std::distance(begins.begin(), begins.find(w.name()));
    if (all[std::size_t(size + index)] > 0)
      out[w.name()] = Numbers(begin, begin + w.whole().size());
  }});
  for (const std::string& name : copies)
    require(parts.is_meta() || std::ranges::equal(own[name], out[name], is_same), name,
            ": the last stage holds other values than the first");
  return out;
}

Numbers whole(const Tensor& x, const Parameter& w, const Mesh& mesh) {
  const auto [copies, of_copies] = copies_of(w);
  Numbers block = cast(x.detached(), DType::f64).to_vector<double>();
  const double mine = digest(block);
  // Not the numbers themselves: each rank would hold those of a thousand others.
  const Tensor bounds = Tensor::empty({2}, DType::f64, x.device(), of_copies);
  backend(bounds).fill(bounds.rows(0, 1), mine);
  backend(bounds).fill(bounds.rows(1, 2), -mine);
  require(all_max(bounds, mesh, copies).to_vector<double>() == bounds.to_vector<double>(), w.name(),
          ": ranks of ", name(copies), " hold other values than this one");
  if (w.shape() == w.whole()) return block;

  const Label sum = constant(dense(Spread::partial, Spread::partial, Spread::partial));
  const Tensor all = Tensor::zeros(w.whole(), DType::f64, x.device(), sum);
  if (!all.is_meta() && mesh.coordinate(copies) == 0)
    for (std::size_t i = 0; i < block.size(); ++i)
      all.data<double>()[place_in_whole(std::int64_t(i), w.block(), w.whole())] = block[i];
  return all_reduce(all, mesh, axes::tp * axes::cp * axes::dp).to_vector<double>();
}

}  // namespace pf
