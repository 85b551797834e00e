#include "optim/training_state.h"

#include <set>

namespace pf {
namespace {

// The axes along which ranks hold the same of w.
Axes copies_of(const Parameter& w) {
  Axes set;
  for (const Axis axis : axes_of(w.label().view)) {
    if (is_varying(w.label()[axis])) continue;
    set.push_back(axis == Axis::pp ? Axis::ends : axis);
  }
  return set;
}

// Whether this one of `replicas` ranks writes what all of them hold: by name, so that each has
// about as much to write.
bool is_writer(const std::string& name, int replica, int replicas) {
  std::uint32_t hash = 2166136261;  // FNV-1a
  for (const char c : name) hash = (hash ^ std::uint8_t(c)) * 16777619;
  return int(hash % std::uint32_t(replicas)) == replica;
}

// [elements]
Tensor flat(const StateTensor& t, const Tensor& x) {
  return x.reshaped({t.end - t.begin});
}

}  // namespace

std::vector<StateTensor> training_state(const Mesh& mesh, const Gradients& gradients,
                                        const Optimizer* optimizer, const Visit& visit) {
  std::vector<StateTensor> all;
  const auto add = [&](const std::string& kind, const Part& part, StoredState state) {
    const std::string& name = part.parameter->name();
    all.push_back({kind + "/" + name, part.parameter, part.begin, part.end, std::move(state),
                   is_writer(name, part.replica, part.replicas)});
  };
  std::set<const Parameter*> changed;
  for (const Part& part : gradients.parts()) {
    changed.insert(part.parameter);
    add("weights", part, StoredState(part.value()));
  }
  visit({.parameter = [&](Parameter& w) {
    if (w.is_trainable() || !changed.insert(&w).second) return;
    const Axes set = copies_of(w);
    const Part part{.parameter = &w,
                    .end = w.size(),
                    .replica = mesh.coordinate(set),
                    .replicas = mesh.size(set)};
    add("weights", part, StoredState(part.value()));
  }});
  if (optimizer != nullptr)
    optimizer->visit_states([&](const char* kind, const Part& part, const StoredState& state) {
      add(std::string("optimizer/") + kind, part, state);
    });
  return all;
}

std::vector<SavedPiece> pieces_of(std::span<const StateTensor> state, std::vector<Tensor>* copies) {
  std::vector<SavedPiece> pieces;
  for (const StateTensor& t : state) {
    if (!t.is_written) continue;
    Tensor data = flat(t, t.state.load());
    if (copies != nullptr) {
      if (copies->size() == pieces.size()) copies->push_back(Tensor::like(data));
      const Tensor& copy = (*copies)[pieces.size()];
      backend(copy).copy(copy, data);
      data = copy;
    }
    const Parameter& w = *t.parameter;
    pieces.push_back({t.name, w.whole(), w.block(), t.begin, t.end, data});
  }
  return pieces;
}

std::int64_t written_bytes(std::span<const StateTensor> state) {
  std::int64_t sum = 0;
  for (const StateTensor& t : state)
    if (t.is_written) sum += (t.end - t.begin) * std::int64_t(size_of(t.parameter->type()));
  return sum;
}

void read_state(const Checkpoint& checkpoint, std::span<const StateTensor> state) {
  for (const StateTensor& t : state) {
    const Tensor x = t.state.load();
    std::int64_t at = 0;
    for (const Block& box : boxes_of(t.parameter->block(), t.begin, t.end)) {
      const std::int64_t size = box.extents.size();
      checkpoint.read(t.name, t.parameter->whole(), box, flat(t, x).rows(at, at + size));
      at += size;
    }
    t.state.save(x);
    t.parameter->changed();
  }
}

}  // namespace pf
