// Any layout of a model's ranks computes what one rank does.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "models/prove.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

struct Sizes {
  int tp = 1, cp = 1, ep = 1, etp = 1, dp = 1;
};

// A recipe, samples and a layout that fit each other.
struct Case {
  Sizes sizes;
  Recipe recipe;
  int kv_groups = 1;  // query heads of a KV head, where tp lets it be
  int group = 1;      // of the balance, in micro-batches; 0: those of all replicas
  int pp = 1;
  bool has_documents = false;

  Layout layout() const {
    const config::Model& model = recipe.model;
    return Layout::make(sizes.tp * sizes.cp * sizes.dp * pp, sizes.tp, sizes.cp, sizes.ep,
                        sizes.etp, pp, int(model.has_mla() ? model.heads() : model.kv_heads()));
  }
  // Chunks of 12 tokens at any cp: tp of 2, 3 and 4 cut them into blocks of 2.
  std::int64_t length() const { return sizes.cp == 1 ? 24 : 24 * sizes.cp; }
  // With documents: of 19 tokens, whose targets count unevenly, while nearly all are present.
  Samples samples() const {
    Samples samples =
        uneven_samples(4 * sizes.dp * recipe.micro_batch, length(), recipe.model.vocabulary());
    const std::int64_t tokens = samples.count * samples.length;
    for (std::int64_t t = 0; t < tokens && has_documents; ++t) {
      if (t % 19 == 0) samples.starts.push_back(t);
      samples.filled.push_back(t + 5 < tokens);
    }
    return samples;
  }
};

using Set = void (*)(Case&);
struct Level {
  const char* name;
  Set set;
};
struct Factor {
  const char* name;
  std::vector<Level> levels;
};

config::Moe& moe(Case& c) {
  return *c.recipe.model.mutable_moe();
}

void use_latent_attention(Case& c, std::int64_t q_rank) {
  config::Mla& mla = *c.recipe.model.mutable_mla();
  mla.set_q_rank(q_rank);
  mla.set_kv_rank(5);
  mla.set_nope_dim(3);
  mla.set_rope_dim(4);
  mla.set_value_dim(2);
}

void balance(Case& c, config::Balance::Kind kind, int group = 1) {
  moe(c).mutable_balance()->set_kind(kind);
  c.group = group;
}

void drop(Case& c, double factor, bool pads) {
  config::Capacity& capacity = *moe(c).mutable_capacity();
  capacity.set_factor(factor);
  capacity.set_block(2);
  capacity.set_pad(pads);
}

void pipeline(Case& c, int pp, ScheduleKind kind, int chunks = 1,
              const std::vector<std::int64_t>& stage_layers = {}) {
  c.pp = pp;
  c.recipe.schedule = kind;
  c.recipe.chunks = chunks;
  c.recipe.stage_layers = stage_layers;
  if (chunks > 1 && c.group == 2) c.group = 0;  // the last stage holds one micro-batch at a time
}

template <int tp, int cp, int ep, int etp, int dp>
void sizes(Case& c) {
  c.sizes = {tp, cp, ep, etp, dp};
}

void as_they_are(Case&) {}

// In the order in which they change a case; the layers come last, since some have no experts.
const std::vector<Factor> factors{
    {"layout",
     {{"tp 2", sizes<2, 1, 1, 1, 1>},
      {"cp 2", sizes<1, 2, 1, 1, 1>},
      {"ep 2, dp 2", sizes<1, 1, 2, 1, 2>},
      {"etp 2, dp 2", sizes<1, 1, 1, 2, 2>},
      {"tp 3, etp 3", sizes<3, 1, 1, 3, 1>},
      {"cp 3, ep 3", sizes<1, 3, 3, 1, 1>},
      {"dp 3, ep 3", sizes<1, 1, 3, 1, 3>},
      {"tp 4, ep 2, etp 2", sizes<4, 1, 2, 2, 1>},
      {"tp 2, cp 2, ep 4", sizes<2, 2, 4, 1, 1>},
      {"tp 2, cp 2, ep 2, etp 2", sizes<2, 2, 2, 2, 1>},
      {"tp 2, dp 2, ep 4", sizes<2, 1, 4, 1, 2>},
      {"tp 2, dp 2, etp 4", sizes<2, 1, 1, 4, 2>},
      {"cp 2, dp 2, etp 2, ep 2", sizes<1, 2, 2, 2, 2>},
      {"tp 2, cp 2, dp 2, ep 2", sizes<2, 2, 2, 1, 2>},
      {"tp 2, cp 3, ep 6", sizes<2, 3, 6, 1, 1>},
      {"cp 4, etp 4", sizes<1, 4, 1, 4, 1>}}},
    {"keys of other ranks",
     {{"gathered", as_they_are},
      {"by heads", [](Case& c) { c.recipe.cp_method = CpMethod::ulysses; }},
      {"in a ring", [](Case& c) { c.recipe.cp_method = CpMethod::ring; }},
      {"on two levels", [](Case& c) { c.recipe.cp_method = CpMethod::two_level; }}}},
    {"tokens of other ranks",
     {{"exchanged", as_they_are},
      {"gathered", [](Case& c) { c.recipe.dispatcher = Dispatcher::all_gather; }}}},
    {"attention",
     {{"each head its keys", as_they_are},
      {"two heads share keys", [](Case& c) { c.kv_groups = 2; }},
      {"many heads share keys", [](Case& c) { c.kv_groups = 4; }},
      {"latent", [](Case& c) { use_latent_attention(c, 6); }},
      {"latent keys", [](Case& c) { use_latent_attention(c, 0); }}}},
    {"heads",
     {{"plain", as_they_are},
      {"biases",
       [](Case& c) {
         c.recipe.model.set_qkv_bias(true);
         c.recipe.model.set_out_bias(true);
       }},
      {"norms", [](Case& c) { c.recipe.model.set_qk_norm(true); }}}},
    {"positions",
     {{"rotary", as_they_are},
      {"learned",
       [](Case& c) {
         if (c.recipe.model.has_mla()) return;
         c.recipe.model.set_position(config::Model::learned);
         c.recipe.model.set_max_positions(c.length());
         c.recipe.model.set_position_offset(2);
       }}}},
    {"window",
     {{"none", as_they_are},
      {"5", [](Case& c) { c.recipe.model.set_window(5); }},
      {"17 in one layer of two",
       [](Case& c) {
         c.recipe.model.set_window(17);
         c.recipe.model.set_full_attention_every(2);
       }}}},
    {"documents",
     {{"whole sequences", as_they_are}, {"several", [](Case& c) { c.has_documents = true; }}}},
    {"MLP",
     {{"SwiGLU", as_they_are},
      {"GELU", [](Case& c) { c.recipe.model.set_activation(config::Model::gelu); }},
      {"ReLU with biases and LayerNorm",
       [](Case& c) {
         c.recipe.model.set_activation(config::Model::relu);
         c.recipe.model.set_mlp_bias(true);
         c.recipe.model.set_norm(config::Model::layer);
       }}}},
    {"head",
     {{"its own", as_they_are},
      {"tied", [](Case& c) { c.recipe.model.set_tied(true); }},
      {"in chunks", [](Case& c) { c.recipe.head_chunk = 7; }}}},
    {"router",
     {{"softmax, then top k", as_they_are},
      {"top k, then softmax", [](Case& c) { moe(c).set_router(config::Moe::top_k_softmax); }},
      {"sigmoids in groups with a bias",
       [](Case& c) {
         moe(c).set_router(config::Moe::sigmoid_top_k);
         moe(c).set_groups(4);
         moe(c).set_top_groups(2);
         moe(c).set_group_best(2);
         moe(c).set_routed_scale(2.5);
         moe(c).set_bias_rate(0.05);
       }},
      {"forced", [](Case& c) { moe(c).set_router(config::Moe::forced); }}}},
    {"balance",
     {{"none", [](Case& c) { balance(c, config::Balance::none); }},
      {"micro", [](Case& c) { balance(c, config::Balance::micro); }},
      {"sequence", [](Case& c) { balance(c, config::Balance::sequence); }},
      {"global", [](Case& c) { balance(c, config::Balance::global, 0); }},
      {"mixed, two steps together", [](Case& c) { balance(c, config::Balance::mixed, 2); }}}},
    {"capacity",
     {{"all are kept", as_they_are},
      {"dropped", [](Case& c) { drop(c, 2, false); }},
      {"padded", [](Case& c) { drop(c, 2, true); }}}},
    {"shared expert",
     {{"none", [](Case& c) { moe(c).clear_shared_ffn(); }},
      {"plain", as_they_are},
      {"with a gate", [](Case& c) { moe(c).set_shared_gate(true); }}}},
    {"run",
     {{"plain", as_they_are},
      {"recomputed", [](Case& c) { c.recipe.recompute = {Recompute::full}; }},
      {"with dropout",
       [](Case& c) {
         c.recipe.model.set_dropout(0.2);
         c.recipe.recompute = {Recompute::full};
       }},
      {"shared states", [](Case& c) { c.recipe.sharing.ranks = 0; }},
      {"states shared by two", [](Case& c) { c.recipe.sharing.ranks = 2; }}}},
    {"trained",
     {{"all", as_they_are},
      {"adapters of attention, experts and the head",
       [](Case& c) {
         c.recipe.adapted = {
             .names = {".q", ".k", ".v", "q.nope", "kv.down", "attention.out", "mlp.up", "mlp.down",
                       "experts.gate", "experts.down", "shared.up", "shared.down", "head"},
             .b_std = 0.3};
       }}}},
    {"stages",
     {{"one", as_they_are},
      {"one, deferred", [](Case& c) { pipeline(c, 1, ScheduleKind::zero_bubble_h1); }},
      {"two", [](Case& c) { pipeline(c, 2, ScheduleKind::one_f_one_b); }},
      {"the embedding, the rest",
       [](Case& c) {
         pipeline(c, 2, ScheduleKind::one_f_one_b, 1, {1, 3});
       }},
      {"three, all forward first", [](Case& c) { pipeline(c, 3, ScheduleKind::gpipe); }},
      {"four, deferred", [](Case& c) { pipeline(c, 4, ScheduleKind::zero_bubble_h1); }},
      {"two on each of two ranks", [](Case& c) { pipeline(c, 2, ScheduleKind::interleaved, 2); }}}},
    {"micro-batch", {{"1", as_they_are}, {"2", [](Case& c) { c.recipe.micro_batch = 2; }}}},
    {"layers",
     {{"all MoE", as_they_are},
      {"every second MoE", [](Case& c) { moe(c).set_every(2); }},
      {"none MoE",
       [](Case& c) {
         if (c.sizes.ep * c.sizes.etp == 1) c.recipe.model.clear_moe();
       }}}},
};

Case base() {
  Case c;
  c.recipe.model.set_ffn(12);
  moe(c).set_experts(12);
  moe(c).set_top_k(3);
  moe(c).set_ffn(12);
  moe(c).set_shared_ffn(12);
  return c;
}

// Of each factor a level.
using Choice = std::vector<std::size_t>;

Case case_of(const Choice& choice) {
  Case c = base();
  for (std::size_t f = 0; f < factors.size(); ++f) {
    factors[f].levels[choice[f]].set(c);
    if (f > 0) continue;
    const int tp = c.sizes.tp;
    c.recipe.model.set_heads(c.sizes.cp == 3 ? 6 * tp : tp < 3 ? 4 : 2 * tp);
    c.recipe.model.set_head_dim(4);
  }
  const int heads = int(c.recipe.model.heads()), kv_heads = heads / c.kv_groups;
  const bool fits = heads % c.kv_groups == 0 && kv_heads % c.sizes.tp == 0;
  c.recipe.model.set_kv_heads(fits ? kv_heads : 1);
  c.recipe.group = c.group == 0 ? c.sizes.dp : c.group == 2 ? 2 * c.sizes.dp : 1;
  return c;
}

std::string name_of(const Choice& choice) {
  std::string out;
  for (std::size_t f = 0; f < factors.size(); ++f)
    out +=
        std::string(f > 0 ? "; " : "") + factors[f].name + ": " + factors[f].levels[choice[f]].name;
  return out;
}

// Two levels of two factors.
using Pair = std::array<std::size_t, 4>;

// Few choices that have all pairs: each begins with a pair that is missing and takes level by level
// what has most others that are.
std::vector<Choice> all_pairs() {
  std::set<Pair> missing;
  for (std::size_t f = 0; f < factors.size(); ++f)
    for (std::size_t g = f + 1; g < factors.size(); ++g)
      for (std::size_t i = 0; i < factors[f].levels.size(); ++i)
        for (std::size_t j = 0; j < factors[g].levels.size(); ++j) missing.insert({f, i, g, j});
  const auto pair = [](std::size_t f, std::size_t i, std::size_t g, std::size_t j) {
    return f < g ? Pair{f, i, g, j} : Pair{g, j, f, i};
  };
  std::vector<Choice> choices;
  while (!missing.empty()) {
    std::map<std::size_t, std::size_t> chosen;
    const Pair first = *missing.begin();
    chosen[first[0]] = first[1];
    chosen[first[2]] = first[3];
    for (std::size_t f = 0; f < factors.size(); ++f) {
      if (chosen.contains(f)) continue;
      std::size_t best = 0, most = 0;
      const std::size_t levels = factors[f].levels.size();
      for (std::size_t l = 0; l < levels; ++l) {
        const std::size_t level = (l + choices.size()) % levels;
        std::size_t gain = 0;
        for (const auto& [g, j] : chosen) gain += missing.contains(pair(f, level, g, j));
        if (l > 0 && gain <= most) continue;
        best = level;
        most = gain;
      }
      chosen[f] = best;
    }
    Choice choice;
    for (const auto& [f, i] : chosen) {
      choice.push_back(i);
      for (const auto& [g, j] : chosen)
        if (f < g) missing.erase({f, i, g, j});
    }
    choices.push_back(choice);
  }
  return choices;
}

Recipe on_one_rank(Recipe recipe) {
  recipe.schedule = ScheduleKind::one_f_one_b;
  recipe.chunks = 1;
  recipe.stage_layers = {};
  return recipe;
}

TEST(Layouts, EveryPairOfFeaturesEqualsOneRank) {
  for (const Choice& choice : all_pairs()) {
    const Case c = case_of(choice);
    const Samples samples = c.samples();
    const Descent want = descend(on_one_rank(c.recipe), samples, Layout{}, 2);
    const Difference found = difference(want, descend(c.recipe, samples, c.layout(), 2));
    EXPECT_LT(found.distance, proof_bound) << found.where << " of " << name_of(choice);
    EXPECT_GT(want.steps[1].norm, 1e-3) << name_of(choice);
  }
}

// Two sequences a micro-batch in documents, dropout, recompute, and a window in one layer of two.
TEST(Layouts, EveryWayToSeeTheKeysOfOtherRanksEqualsOneRank) {
  for (const int cp : {2, 3, 4})
    for (const int tp : {1, 2})
      for (const int kv_heads : {1, 2, 24}) {
        Case c = base();
        c.sizes = {.tp = tp, .cp = cp};
        c.has_documents = true;
        c.recipe.micro_batch = 2;
        c.recipe.recompute = {Recompute::full};
        config::Model& model = c.recipe.model;
        model.set_heads(24);
        model.set_kv_heads(kv_heads);
        model.set_head_dim(4);
        model.set_qk_norm(true);
        model.set_dropout(0.2);
        model.set_window(17);
        model.set_full_attention_every(2);
        const Samples samples = c.samples();
        const Descent want = descend(c.recipe, samples, Layout{}, 2);
        const bool fits = heads_fit(24 / tp, std::max(kv_heads / tp, 1), cp);
        for (const CpMethod method :
             {CpMethod::all_gather, CpMethod::ulysses, CpMethod::ring, CpMethod::two_level}) {
          if (method == CpMethod::ulysses && !fits) continue;
          c.recipe.cp_method = method;
          const Difference found = difference(want, descend(c.recipe, samples, c.layout(), 2));
          EXPECT_LT(found.distance, proof_bound)
              << found.where << " of cp " << cp << ", tp " << tp << ", KV heads " << kv_heads
              << ", method " << int(method);
        }
      }
}

// The last micro-batch has one sequence of two, so that ranks have unlike numbers of tokens.
TEST(Layouts, EveryWayToTheExpertsOfOtherRanksEqualsOneRank) {
  const Sizes all[] = {{.ep = 2, .dp = 2},
                       {.etp = 2, .dp = 2},
                       {.tp = 4, .ep = 2, .etp = 2},
                       {.cp = 2, .ep = 2, .etp = 2, .dp = 2},
                       {.tp = 2, .cp = 3, .ep = 6}};
  for (const Sizes& sizes : all)
    for (const int capacity : {0, 1, 2})
      for (const bool is_forced : {false, true}) {
        Case c = base();
        c.sizes = sizes;
        c.recipe.micro_batch = 2;
        c.recipe.model.set_heads(12);
        if (capacity > 0) drop(c, 1.2, capacity == 2);
        if (is_forced) moe(c).set_router(config::Moe::forced);
        const Samples samples =
            uneven_samples(4 * sizes.dp - 1, c.length(), c.recipe.model.vocabulary());
        const Descent want = descend(c.recipe, samples, Layout{}, 2);
        for (const Dispatcher by : {Dispatcher::all_to_all, Dispatcher::all_gather}) {
          c.recipe.dispatcher = by;
          const Difference found = difference(want, descend(c.recipe, samples, c.layout(), 2));
          EXPECT_LT(found.distance, proof_bound)
              << found.where << " of " << text(c.layout()) << ", capacity " << capacity
              << ", dispatcher " << int(by);
        }
      }
}

TEST(Layouts, ADifferenceIsNamed) {
  const Samples samples = even_samples(2, 4, 11);
  const Descent want = descend({}, samples, Layout{}, 2);
  EXPECT_EQ(difference(want, want).distance, 0);
  Descent other = want;
  other.steps[1].gradients.at("layers.1.moe.router")[3] += 1e-3;
  other.steps[0].gradients.at("layers.0.attention.q")[3] += 1e-6;
  const Difference found = difference(want, other);
  EXPECT_EQ(found.where, "gradient of layers.1.moe.router, step 2");
  EXPECT_GT(found.distance, 1e-7);
  other.weights.erase("head");
  EXPECT_EQ(difference(want, other).where, "weights head");
  EXPECT_FALSE(std::isfinite(difference(other, want).distance));
}

TEST(Layouts, AWholeTensorIsMadeOfItsBlocksAndCopiesMustAgree) {
  in_ranks({.kv = 2, .dp = 2, .edp = 4}, [](const Mesh& mesh) {
    const Label label = dense(Spread::columns, Spread::replicated, Spread::replicated);
    Parameter w("w", {3, 4}, mesh.place("w", {3, 4}, label), label);
    w.initialise(mesh.device(), DType::f64, 1, 1);
    const std::int64_t begin = w.block().begin[1];
    for (std::int64_t i = 0; i < w.size(); ++i)
      w.value().data<double>()[i] = double(i / 2 * 4 + begin + i % 2);
    EXPECT_EQ(whole(w.value(), w, mesh), (Numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  });
  expect_error(
      [] {
        in_ranks(2, [](const Mesh& mesh) {
          const Label label = dense(Spread::replicated, Spread::replicated, Spread::replicated);
          Parameter w("w", {1}, mesh.place("w", {1}, label), label);
          w.initialise(mesh.device(), DType::f64, 1, 1);
          w.value().data<double>()[0] = mesh.rank();
          whole(w.value(), w, mesh);
        });
      },
      {"w: ranks of tp x cp x dp hold other values"});
}

}  // namespace
}  // namespace pf
