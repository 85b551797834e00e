// What ranks get under MPI is what thread ranks get: each process also runs the whole world as
// threads and compares.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <thread>

#include "core/error.h"
#include "parallel/gradients.h"
#include "parallel/table.h"
#include "tests/mpi/world.h"
#include "tests/ranks.h"

namespace pf {
namespace {

using enum Spread;
using Bits = std::vector<std::byte>;

void append(Bits& bits, const Tensor& x) {
  const auto* begin = static_cast<const std::byte*>(x.raw());
  bits.insert(bits.end(), begin, begin + std::size_t(x.size()) * size_of(x.dtype()));
}

CommunicatorOptions checked() {
  CommunicatorOptions options;
  options.checks_calls = true;
  options.watchdog = 60;
  return options;
}

Layout along_dp(int ranks) {
  return {.dp = ranks, .edp = ranks};
}

// Runs body on all ranks of MPI, with and without checks, and on as many threads.
void expect_the_same_bits(const std::function<Bits(const Mesh&)>& body) {
  const int ranks = world().size(), self = world().rank();
  std::vector<Bits> wanted(static_cast<std::size_t>(ranks));
  in_ranks(ranks, [&](const Mesh& mesh) { wanted[std::size_t(mesh.rank())] = body(mesh); });
  for (const bool is_checked : {false, true}) {
    const auto communicator = world().communicator(is_checked ? checked() : CommunicatorOptions());
    Device device(make_cpu_backend(1));
    std::vector<int> all(static_cast<std::size_t>(ranks));
    std::iota(all.begin(), all.end(), 0);
    const Mesh mesh(*communicator, device, along_dp(ranks), all);
    EXPECT_TRUE(body(mesh) == wanted[std::size_t(self)]) << "rank " << self;
  }
}

Tensor random(const Shape& shape, DType type, const Mesh& mesh, const Label& label, int seed) {
  const Tensor wide = Tensor::empty(shape, DType::f64, mesh.device(), label);
  std::mt19937 engine(static_cast<unsigned>(seed * 1000 + mesh.rank()));
  for (std::int64_t i = 0; i < wide.size(); ++i)
    wide.data<double>()[i] = double(engine() % 100000) * 1e-5 - 0.5;
  if (type == DType::f64) return wide;
  const Tensor y = Tensor::empty(shape, type, mesh.device(), label);
  backend(y).copy(y, wide);
  return y;
}

Label on_dp(Spread spread) {
  return dense(invariant, invariant, invariant, invariant).with(axes::dp, spread);
}

// Sizes on both sides of those at which a sum changes its way.
TEST(Mpi, TheTableGivesTheBitsOfThreadRanks) {
  for (const DType type : {DType::f64, DType::f32, DType::bf16}) {
    for (const std::int64_t rows : {5, 997}) {
      expect_the_same_bits([&](const Mesh& mesh) {
        const std::int64_t even = rows * mesh.size();
        Bits bits;
        append(bits, all_reduce(random({rows, 24}, type, mesh, on_dp(partial), 1), mesh, axes::dp));
        append(bits,
               reduce_scatter(random({even, 24}, type, mesh, on_dp(partial), 2), mesh, axes::dp));
        append(bits,
               all_gather(random({rows, 24}, type, mesh, on_dp(Spread::rows), 3), mesh, axes::dp));
        append(bits,
               shift(random({rows, 24}, type, mesh, on_dp(Spread::rows), 4), mesh, axes::dp, 1));
        append(bits, all_max(random({rows, 1}, type, mesh, constant(on_dp(Spread::rows)), 5), mesh,
                             axes::dp));
        return bits;
      });
    }
  }
}

TEST(Mpi, GradientsAreSummedLikeThoseOfThreadRanks) {
  expect_the_same_bits([](const Mesh& mesh) {
    const Label label = dense(invariant, invariant, invariant, replicated);
    std::vector<std::unique_ptr<Parameter>> parameters;
    std::vector<LayerWeights> layers;
    for (int i = 0; i < 5; ++i) {
      const Shape shape{40 + i, 33};
      parameters.push_back(std::make_unique<Parameter>(
          "w" + std::to_string(i), shape, mesh.place("w", shape, label), label, Init::normal, 1));
      parameters.back()->initialise(mesh.device(), DType::f32, 1, std::uint32_t(i));
      layers.push_back({{parameters.back().get()}});
    }
    Gradients gradients(mesh, layers);
    Bits bits;
    for (int step = 0; step < 3; ++step) {
      gradients.clear();
      for (std::size_t i = layers.size(); i-- > 0;) {
        Parameter& w = *parameters[i];
        const Tensor dw = random(w.shape(), DType::f32, mesh, label, step * 10 + int(i));
        const GradientTarget target = w.gradient_target();
        backend(dw).copy(target.tensor, dw);
        gradients.start(i);
      }
      const double norm = gradients.finish();
      const auto* begin = reinterpret_cast<const std::byte*>(&norm);
      bits.insert(bits.end(), begin, begin + sizeof norm);
      for (const auto& w : parameters) append(bits, w->gradient());
    }
    return bits;
  });
}

using Values = std::vector<double>;

// Random groups, several calls in flight, ended in random order, pieces of any size.
TEST(Mpi, RandomCallsAllArrive) {
  constexpr int calls = 200;
  const int count = world().size(), self = world().rank();
  std::mt19937 shared(7), own(static_cast<unsigned>(self));
  for (const bool is_checked : {false, true}) {
    const auto communicator = world().communicator(is_checked ? checked() : CommunicatorOptions());
    struct Flight {
      std::vector<int> group;
      std::vector<Values> out, in;
      int number;
      std::unique_ptr<Pending> pending;
    };
    const auto size = [](int number, int from, int to) {
      return std::size_t((number * 37 + from * 5 + to * 11) % 7 == 0 ? 20000 : (from + to) % 3);
    };
    std::vector<std::unique_ptr<Flight>> flights;
    const auto end_one = [&] {
      const std::size_t at = own() % flights.size();
      flights[at]->pending->wait();
      const Flight& flight = *flights[at];
      for (std::size_t i = 0; i < flight.group.size(); ++i) {
        const int from = flight.group[i];
        EXPECT_EQ(flight.in[i],
                  Values(size(flight.number, from, self), flight.number * 100.0 + from));
      }
      flights.erase(flights.begin() + std::ptrdiff_t(at));
    };
    for (int number = 0; number < calls; ++number) {
      std::vector<int> group(static_cast<std::size_t>(count));
      std::iota(group.begin(), group.end(), 0);
      std::shuffle(group.begin(), group.end(), shared);
      group.resize(1 + shared() % unsigned(count));
      std::ranges::sort(group);
      if (std::ranges::find(group, self) == group.end()) continue;
      auto flight = std::make_unique<Flight>();
      flight->group = group;
      flight->number = number;
      std::vector<ConstBytes> send;
      std::vector<Bytes> receive;
      for (const int peer : group) {
        flight->out.emplace_back(size(number, self, peer), number * 100.0 + self);
        flight->in.emplace_back(size(number, peer, self));
      }
      for (const Values& x : flight->out) send.push_back(std::as_bytes(std::span(x)));
      for (Values& x : flight->in) receive.push_back(std::as_writable_bytes(std::span(x)));
      flight->pending =
          communicator->exchange(group, {"all_to_all", axes::dp, DType::f64, {number}, false, "x"},
                                 std::move(send), std::move(receive));
      flights.push_back(std::move(flight));
      if (flights.size() > 1 + own() % 5) end_one();
    }
    while (!flights.empty()) end_one();
  }
}

TEST(Mpi, SendsMeetReceivesInOrder) {
  const auto communicator = world().communicator(checked());
  const int count = communicator->size(), self = communicator->rank();
  const int next = (self + 1) % count, previous = (self + count - 1) % count;
  if (count == 1) return;
  std::vector<double> out{self * 10.0, self * 10.0 + 1}, in(2);
  std::vector<std::unique_ptr<Pending>> flight;
  const Call call{"activation", axes::pp, DType::f64, {1}, false, "x"};
  for (std::size_t i = 0; i < 2; ++i) {
    flight.push_back(communicator->send(next, call, std::as_bytes(std::span(&out[i], 1))));
    flight.push_back(
        communicator->receive(previous, call, std::as_writable_bytes(std::span(&in[i], 1))));
  }
  for (auto& pending : flight) pending->wait();
  EXPECT_EQ(in, (std::vector<double>{previous * 10.0, previous * 10.0 + 1}));
}

// A world of the others goes on after these: what failed is dropped with its communicator.
std::string failure(const std::function<void(Communicator&)>& body,
                    const CommunicatorOptions& options) {
  const auto communicator = world().communicator(options);
  try {
    body(*communicator);
  } catch (const Error& error) {
    return error.what();
  }
  return "no failure";
}

std::vector<int> everyone() {
  std::vector<int> all(static_cast<std::size_t>(world().size()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

TEST(Mpi, DifferentCallsAreAnErrorThatNamesBoth) {
  if (world().size() == 1) return;
  const std::string found = failure(
      [](Communicator& communicator) {
        const Call call{communicator.rank() == 0 ? "all_reduce" : "all_gather",
                        axes::dp,
                        DType::f64,
                        {4},
                        false,
                        "w"};
        const std::size_t n = std::size_t(communicator.size());
        communicator.exchange(everyone(), call, std::vector<ConstBytes>(n), std::vector<Bytes>(n))
            ->wait();
      },
      checked());
  const int other = std::max(1, world().rank());
  EXPECT_EQ(found,
            "ranks make different calls: rank 0 makes all_reduce on dp of w: f64 [4], rank " +
                std::to_string(other) +
                " makes all_gather on dp of w: f64 [4], as call 0 of their group");
}

TEST(Mpi, PiecesThatAreTooSmallOrTooLargeAreErrors) {
  if (world().size() == 1) return;
  for (const std::size_t wanted : {1, 3}) {
    std::vector<double> out(2), in(3);
    const int self = world().rank();
    const std::string found = failure(
        [&](Communicator& communicator) {
          const Call call{"activation", axes::pp, DType::f64, {2}, false, "x"};
          if (self == 0) communicator.send(1, call, std::as_bytes(std::span(out)))->wait();
          if (self == 1)
            communicator.receive(0, call, std::as_writable_bytes(std::span(in)).first(8 * wanted))
                ->wait();
        },
        {});
    if (self != 1) continue;
    EXPECT_NE(found.find("rank 0 sends"), std::string::npos) << found;
    EXPECT_NE(found.find("activation on pp of x"), std::string::npos) << found;
  }
}

TEST(Mpi, TheWatchdogNamesWhoIsMissing) {
  if (world().size() == 1) return;
  CommunicatorOptions options;
  options.watchdog = 2;
  std::string journal;
  options.report = [&](int, const std::string& text) { journal = text; };
  std::vector<double> out(1), in(1);
  const std::string found = failure(
      [&](Communicator& communicator) {
        if (communicator.rank() != 0) return;
        communicator.enter({0, 3, "layers.2"});
        const Call call{"activation", axes::pp, DType::f64, {1}, false, "x"};
        communicator.receive(1, call, std::as_writable_bytes(std::span(in)))->wait();
      },
      options);
  if (world().rank() != 0) return;
  EXPECT_EQ(found,
            "waits in activation on pp of x: f64 [1] from rank 1 at step 1, micro-batch "
            "3, layers.2 for over 2 s; missing: rank 1");
  EXPECT_EQ(journal,
            "  #0 activation on pp of x: f64 [1]; step 1, micro-batch 3, layers.2; waits\n");
}

TEST(Mpi, ASmallerWorldLeavesTheOthersOut) {
  const auto communicator = world().communicator({}, 1);
  EXPECT_EQ(communicator != nullptr, world().rank() == 0);
  if (communicator != nullptr) {
    EXPECT_EQ(communicator->size(), 1);
  }
}

}  // namespace
}  // namespace pf
