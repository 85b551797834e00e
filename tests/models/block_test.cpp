// A collective that is left out of a block is an error on one rank already.
#include <gtest/gtest.h>

#include "core/ops/attention.h"
#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/ops/loss.h"
#include "core/ops/routing.h"
#include "core/ops/rows.h"
#include "models/weights.h"
#include "parallel/dispatch.h"
#include "parallel/table.h"
#include "tests/ranks.h"
#include "tests/tensors.h"

namespace pf {
namespace {

// An attention block in which calls can be left out.
struct Block {
  explicit Block(const Mesh& on)
      : mesh(on),
        table(rope_table(length, rope_frequencies(4, 1e4, {}, length), DType::f64, on.device())) {
    for (Parameter* w : {&q, &k, &v, &out}) w->initialise(mesh.device(), DType::f64, 1, 1);
    const std::vector<std::int32_t> ids(std::size_t{length}, 0);
    context.mesh = &mesh;
    context.batch = make_batch(mesh, {.count = 1, .ids = ids, .targets = ids}, DType::f64);
    x = Tensor::zeros({length, 8}, DType::f64, mesh.device(),
                      dense(Spread::rows, Spread::rows, Spread::rows));
  }

  Tensor forward() {
    const Tape::Recording on(&tape);
    const Tensor in = tape.watch(x);
    const auto qkv = linear(enters ? enter(in, context) : in, qkv_pack);
    const Tensor keys = rope(qkv[1], context.batch.position, table);
    const Tensor y = attention(rope(qkv[0], context.batch.position, table),
                               gathers_k ? all_gather(keys, mesh, axes::cp) : keys,
                               gathers_v ? all_gather(qkv[2], mesh, axes::cp) : qkv[2],
                               context.batch.areas, {2, 1, 4, 0.5});
    const Tensor part = linear(y, out_pack)[0];
    return add(in, leaves ? leave(part, context) : part);
  }

  static constexpr std::int64_t length = 3;

  bool enters = true, leaves = true, gathers_k = true, gathers_v = true;
  const Mesh& mesh;
  Tensor table, x;
  Context context;
  Tape tape;
  Parameter q = make_parameter(mesh, {"q", {8, 8}, dense_weight(Cut::rows), Init::normal, 1});
  Parameter k = make_parameter(mesh, {"k", {4, 8}, dense_weight(Cut::rows), Init::normal, 1});
  Parameter v = make_parameter(mesh, {"v", {4, 8}, dense_weight(Cut::rows), Init::normal, 1});
  Parameter out =
      make_parameter(mesh, {"out", {8, 8}, dense_weight(Cut::columns), Init::normal, 1});
  Pack qkv_pack{"qkv", {&q, &k, &v}}, out_pack{"out", {&out}};
};

TEST(Block, WithAllItsCallsItRuns) {
  in_ranks(1, [](const Mesh& mesh) { EXPECT_NO_THROW(Block(mesh).forward()); });
}

TEST(Block, WithoutEnterTheProductNamesTheCall) {
  in_ranks(1, [](const Mesh& mesh) {
    Block block(mesh);
    block.enters = false;
    expect_error([&] { block.forward(); }, {"linear q", "x is rows and w is rows", "all_gather()"});
  });
}

TEST(Block, WithoutLeaveTheSumNamesTheCall) {
  in_ranks(1, [](const Mesh& mesh) {
    Block block(mesh);
    block.leaves = false;
    expect_error([&] { block.forward(); }, {"add", "partial", "reduce_scatter()"});
  });
}

TEST(Block, WithoutTheOthersKeysAttentionNamesTheCall) {
  in_ranks(1, [](const Mesh& mesh) {
    Block block(mesh);
    block.gathers_k = block.gathers_v = false;
    expect_error([&] { block.forward(); }, {"attention", "rows on cp", "all_gather() k and v"});
  });
}

TEST(Block, WithTheOthersKeysButNotTheirValuesTheTwoDiffer) {
  in_ranks(1, [](const Mesh& mesh) {
    Block block(mesh);
    block.gathers_v = false;
    expect_error([&] { block.forward(); }, {"attention", "k is", "cp:replicated", "cp:rows"});
  });
}

TEST(Block, RowsThatWereNotDispatchedAreNoInputOfExperts) {
  in_ranks(1, [](const Mesh& mesh) {
    Parameter up =
        make_parameter(mesh, {"up", {4, 6, 8}, expert_weight(Cut::rows), Init::normal, 1});
    up.initialise(mesh.device(), DType::f64, 1, 1);
    Pack pack("up", {&up});
    const Label rows = dense(Spread::rows, Spread::rows, Spread::rows);
    const Tensor x = Tensor::zeros({4, 8}, DType::f64, mesh.device(), rows);
    Tape tape;
    const Tape::Recording on(&tape);
    expect_error(
        [&] {
          grouped_linear({x, {}, {1, 1, 1, 1}}, pack);
        },
        {"grouped_linear up", "cross()"});
  });
}

TEST(Block, PartsOfALossMustBeSummedOverTheVocabulary) {
  in_ranks(1, [](const Mesh& mesh) {
    const Label columns = dense(Spread::columns, Spread::rows, Spread::rows);
    const Tensor logits = Tensor::zeros({2, 4}, DType::f64, mesh.device(), columns);
    const std::vector<std::int32_t> ids(2, 0);
    const Batch batch = make_batch(mesh, {.count = 1, .ids = ids, .targets = ids}, DType::f64);
    Tape tape;
    const Tape::Recording on(&tape);
    const Tensor x = tape.watch(logits);
    const Tensor top = all_max(row_max(x), mesh, axes::tp);
    LossParts parts = loss_parts(x, top, batch.targets, 0, axes::tp);
    expect_error([&] { cross_entropy(parts, top, batch.mask, 1); }, {"partial", "all_reduce()"});
  });
}

}  // namespace
}  // namespace pf
