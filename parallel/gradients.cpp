#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "parallel/collectives.h"
#include "parallel/table.h"

namespace pf {
namespace {

constexpr std::size_t alignment = 64;      // bytes: kernels write gradients in place
constexpr std::size_t most_in_flight = 2;  // layers

std::int64_t aligned(std::int64_t size, DType type) {
  const auto step = std::int64_t(alignment / size_of(type));
  return (size + step - 1) / step * step;
}

// Of the sum of squares of a reduced gradient: a rank sums the slice that it has reduced, so that
// on the axes of the sum each holds a part, like on those that cut the parameter.
Label label_of_squares(const Label& parameter) {
  Label label = parameter;
  for (const Axis a : axes_of(label.view)) {
    if (label[a] == Spread::replicated) label = label.with({a}, Spread::partial);
    if (is_varying(label[a])) label = label.with({a}, Spread::rows);
  }
  return label;
}

Axes invariant_axes(const Label& label) {
  Axes out;
  for (const Axis a : axes_of(label.view))
    if (label[a] == Spread::invariant) out.push_back(a);
  return out;
}

}  // namespace

struct Gradients::Bucket {
  Bucket(const Mesh& mesh, std::size_t squares_of_it, const Parameter& first)
      : set(summed_over(first.label())),
        ranks(mesh.size(set)),
        self(mesh.coordinate(set)),
        squares(squares_of_it),
        type(first.value().dtype()) {}

  // Once all parameters are known: each gets its place.
  void allocate(const Mesh& mesh);
  Tensor part(int rank) const { return flat.rows(rank * slice, (rank + 1) * slice); }
  Call call(const char* kind) const {
    return {kind, set, type, flat.shape(), false, "gradients of " + parameters[0]->name() + "..."};
  }

  std::vector<Parameter*> parameters;
  Axes set;
  int ranks, self;
  std::size_t squares;
  DType type;
  std::int64_t slice = 0;
  Tensor flat;                       // [ranks * slice]
  Tensor received;                   // [ranks - 1, slice]: this rank's part, from the others
  std::unique_ptr<Pending> pending;  // last: withdrawn before the memory goes
};

void Gradients::Bucket::allocate(const Mesh& mesh) {
  std::int64_t size = 0;
  for (const Parameter* p : parameters) size += aligned(p->size(), type);
  slice = aligned((size + ranks - 1) / ranks, type);
  flat = Tensor::zeros({ranks * slice}, type, mesh.device());
  std::int64_t begin = 0;
  for (Parameter* p : parameters) {
    p->place_gradient(flat.rows(begin, begin + p->size()).reshaped(p->shape()));
    begin += aligned(p->size(), type);
  }
}

Gradients::Gradients(const Mesh& mesh, const std::vector<std::vector<Parameter*>>& layers)
    : mesh_(&mesh) {
  for (const std::vector<Parameter*>& parameters : layers) {
    auto& buckets = layers_.emplace_back();
    for (Parameter* p : parameters) {
      require(bool(p->value()), "gradients: parameter ", p->name(),
              " has no value; initialise() it");
      require(p->is_trainable(), "gradients: parameter ", p->name(), " is frozen; leave it out");
      const std::size_t squares = squares_of(*p);
      auto found = std::ranges::find_if(buckets, [&](const std::unique_ptr<Bucket>& bucket) {
        return bucket->squares == squares && bucket->type == p->value().dtype();
      });
      if (found == buckets.end())
        found = buckets.insert(found, std::make_unique<Bucket>(mesh, squares, *p));
      (*found)->parameters.push_back(p);
    }
    for (auto& bucket : buckets) bucket->allocate(mesh);
  }
}

Gradients::~Gradients() = default;

// Parameters whose squares have one label are also summed over the same axes: they share a bucket.
std::size_t Gradients::squares_of(const Parameter& parameter) {
  const Label label = label_of_squares(parameter.label());
  const auto found =
      std::ranges::find_if(squares_, [&](const Squares& s) { return s.label() == label; });
  const auto index = std::size_t(found - squares_.begin());
  if (found == squares_.end())
    squares_.push_back(Tensor::zeros({}, DType::f64, mesh_->device(), label));
  return index;
}

void Gradients::clear() {
  for (const auto& layer : layers_) {
    for (const auto& bucket : layer) {
      require(bucket->pending == nullptr, "gradients: clear() while sums are under way; finish()");
      for (Parameter* p : bucket->parameters) p->clear_gradient();
    }
  }
  for (const Squares& s : squares_) backend(s).fill(s, 0);
  started_.clear();
  reduced_ = 0;
}

void Gradients::start(std::size_t layer) {
  require(layer < layers_.size(), "gradients: layer ", layer, " of ", layers_.size());
  require(std::ranges::find(started_, layer) == started_.end(), "gradients: layer ", layer,
          " was started already; clear() comes first");
  // At a fixed place, not when the pieces happen to be here: the order of calls and the memory are
  // then the same in every run.
  if (started_.size() - reduced_ == most_in_flight)
    for (const auto& bucket : layers_[started_[reduced_++]]) reduce(*bucket);
  for (const auto& bucket : layers_[layer]) {
    for (Parameter* p : bucket->parameters) p->gradient();
    scatter(*bucket);
  }
  started_.push_back(layer);
  poll();
}

void Gradients::scatter(Bucket& bucket) {
  if (bucket.ranks == 1) return;
  bucket.received = Tensor::empty({bucket.ranks - 1, bucket.slice}, bucket.type, mesh_->device());
  std::vector<ConstBytes> send(std::size_t(bucket.ranks), ConstBytes{});
  std::vector<Bytes> receive(std::size_t(bucket.ranks), Bytes{});
  for (int i = 0, row = 0; i < bucket.ranks; ++i) {
    if (i == bucket.self) continue;
    send[std::size_t(i)] = bytes_of(bucket.part(i));
    receive[std::size_t(i)] = bytes_of(bucket.received.rows(row, row + 1));
    ++row;
  }
  bucket.pending =
      mesh_->communicator().exchange(mesh_->group(bucket.set), bucket.call("scatter_gradients"),
                                     std::move(send), std::move(receive));
}

void Gradients::reduce(Bucket& bucket) {
  const Tensor own = bucket.part(bucket.self);
  std::vector<Tensor> parts;
  if (bucket.pending) bucket.pending->wait();
  for (int i = 0, row = 0; i < bucket.ranks; ++i) {
    if (i == bucket.self) {
      parts.push_back(own);
      continue;
    }
    parts.push_back(bucket.received.rows(row, row + 1).reshaped({bucket.slice}));
    ++row;
  }
  backend(own).reduce(own, parts, squares_[bucket.squares]);
  bucket.received = {};
  if (bucket.ranks == 1) return;

  std::vector<ConstBytes> send(std::size_t(bucket.ranks), bytes_of(own));
  std::vector<Bytes> receive;
  receive.reserve(send.size());
  for (int i = 0; i < bucket.ranks; ++i) receive.push_back(bytes_of(bucket.part(i)));
  send[std::size_t(bucket.self)] = receive[std::size_t(bucket.self)] = {};
  bucket.pending =
      mesh_->communicator().exchange(mesh_->group(bucket.set), bucket.call("gather_gradients"),
                                     std::move(send), std::move(receive));
}

void Gradients::poll() {
  for (const std::size_t layer : started_)
    for (const auto& bucket : layers_[layer])
      if (bucket->pending) bucket->pending->poll();
}

double Gradients::finish() {
  require(started_.size() == layers_.size(), "gradients: ", started_.size(), " of ", layers_.size(),
          " layers were started");
  for (; reduced_ < started_.size(); ++reduced_)
    for (const auto& bucket : layers_[started_[reduced_]]) reduce(*bucket);
  for (const auto& layer : layers_) {
    for (const auto& bucket : layer) {
      if (bucket->pending) bucket->pending->wait();
      bucket->pending.reset();
    }
  }
  return norm();
}

double Gradients::norm() const {
  const Label one = dense(Spread::partial, Spread::partial, Spread::partial, Spread::partial);
  Tensor sum = Tensor::zeros({}, DType::f64, mesh_->device(), one);
  for (const Squares& squares : squares_) {
    Tensor part = once(total(squares), *mesh_, invariant_axes(squares.label()));
    if (part.label().view == View::expert) part = cross(part, *mesh_);
    meet("gradient norm", Meeting::sum, {sum.label(), part.label()});
    const Tensor terms[] = {sum, part};
    backend(sum).add(sum, terms);
  }
  return std::sqrt(all_reduce(sum, *mesh_, axes_of(View::dense)).item());
}

}  // namespace pf
