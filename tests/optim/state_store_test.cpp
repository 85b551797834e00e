// States in a file.
#include "optim/state_store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "optim/optimizer.h"
#include "tests/launch/full_disk.h"
#include "tests/launch/temporary_folder.h"
#include "tests/model.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using Kind = config::Optimizer;

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

struct Trained {
  std::map<std::string, Numbers> weights;
  std::size_t state = 0, peak = 0;  // bytes in memory: between steps, and in one more
};

Trained train(Kind::Kind kind, DType type, Divided divided, const std::string& folder,
              std::int64_t layers = 2) {
  config::Optimizer config;
  config.set_kind(kind);
  config.set_offload(folder);
  Trained out;
  in_ranks(2, [&](const Mesh& mesh) {
    Recipe recipe{.type = type};
    recipe.model.set_layers(layers);
    recipe.sharing = {0, [&](const Parameter& w) { return needs_matrices(w, config); }, divided};
    SmallModel model(recipe, mesh, 8);
    const std::size_t before = mesh.device().memory().live;
    const auto optimizer =
        make_optimizer(config, mesh, model.gradients().parts(),
                       [&](const Visitor& visitor) { model.transformer().visit(visitor); });
    const std::size_t state = mesh.device().memory().live - before;
    const Samples samples = uneven_samples(4, 8, recipe.model.vocabulary());
    std::size_t peak = 0;
    for (int step = 0; step < 4; ++step) {
      model.step(samples, step);
      mesh.device().restart_peak();
      const std::size_t live = mesh.device().memory().live;
      optimizer->step(0.01, 1);
      peak = mesh.device().memory().peak - live;
      model.gradients().share_values();
    }
    model.gradients().wait_for_values();
    auto weights = model.weights();
    if (mesh.rank() == 1) out = {std::move(weights), state, peak};
  });
  return out;
}

TEST(StateStore, InAFileGivesTheBitsOfOneInMemory) {
  const TemporaryFolder folder;
  for (const Kind::Kind kind : {Kind::adamw, Kind::sgd, Kind::muon})
    for (const DType type : {DType::f64, DType::bf16})
      for (const Divided divided : {Divided::states, Divided::weights}) {
        const Trained want = train(kind, type, divided, "");
        const Trained got = train(kind, type, divided, folder.path());
        EXPECT_EQ(got.weights, want.weights) << Kind::Kind_Name(kind) << ' ' << name(type);
        EXPECT_GT(want.state, 0u);
        EXPECT_EQ(got.state, 0u);
      }
}

TEST(StateStore, InAFileTakesMemoryForOneLayersExpertsWhateverTheDepth) {
  const TemporaryFolder folder;
  const Trained two = train(Kind::adamw, DType::f32, Divided::states, folder.path(), 2),
                many = train(Kind::adamw, DType::f32, Divided::states, folder.path(), 8);
  EXPECT_EQ(many.peak, two.peak);
  const std::size_t gate_and_up = 2 * std::size_t{4} * 6 * 8 * sizeof(float);
  EXPECT_GT(many.peak, 0u);
  EXPECT_LE(many.peak, 2 * gate_and_up);  // two moments
}

TEST(StateStore, LeavesNoFiles) {
  const TemporaryFolder folder;
  Device device(make_cpu_backend(1));
  StateStore store(folder.path());
  const StoredState state = store.zeros({3, 5}, DType::f32, device);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_EQ(device.memory().live, 0u);
  EXPECT_EQ(state.load().to_vector<float>(), std::vector<float>(15, 0));
}

TEST(StateStore, HoldsWhatWasSaved) {
  const TemporaryFolder folder;
  Device device(make_cpu_backend(1));
  for (const std::string& where : {std::string(), folder.path()}) {
    StateStore store(where);
    std::vector<StoredState> states;
    for (std::int64_t i = 0; i < 4; ++i) states.push_back(store.zeros({i, 7}, DType::f64, device));
    for (int round = 1; round < 3; ++round) {
      for (std::size_t i = 0; i < states.size(); ++i) {
        const Tensor x = states[i].load();
        backend(x).fill(x, double(i * 10) + round);
        states[i].save(x);
      }
      for (std::size_t i = 0; i < states.size(); ++i)
        EXPECT_EQ(states[i].load().to_vector<double>(),
                  std::vector<double>(i * 7, double(i * 10) + round));
    }
  }
}

TEST(StateStore, OnMetaWritesNothingAndCountsWhatIsLoaded) {
  Device device(make_meta_backend(make_cpu_backend(1)));
  StateStore store("/no/such/folder");
  const StoredState state = store.zeros({3, 5}, DType::f32, device);
  EXPECT_EQ(device.memory().live, 0u);
  const Tensor x = state.load();
  EXPECT_EQ(device.memory().live, 60u);
  state.save(x);
}

TEST(StateStore, AFolderThatCannotBeWrittenIsSaid) {
  Device device(make_cpu_backend(1));
  StateStore store("/no/such/folder");
  EXPECT_EQ(error_of([&] { store.zeros({3}, DType::f32, device); }),
            "optimizer.offload: no file can be made in /no/such/folder: No such file or directory; "
            "name a folder that can be written");
}

TEST(StateStore, ADiskThatIsFullIsSaidBeforeAStep) {
  const TemporaryFolder folder;
  Device device(make_cpu_backend(1));
  StateStore store(folder.path());
  const FullDisk full(1000);
  store.zeros({200}, DType::f32, device);
  EXPECT_EQ(error_of([&] { store.zeros({200}, DType::f32, device); }),
            "optimizer.offload: " + folder.path() +
                " can't hold more than 800 bytes of a rank's states: File too large");
}

}  // namespace
}  // namespace pf
