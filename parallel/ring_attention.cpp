#include "parallel/ring_attention.h"

#include <memory>
#include <utility>

#include "core/error.h"
#include "core/ops/attention.h"
#include "parallel/collectives.h"
#include "parallel/table.h"

namespace pf {
namespace {

using Areas = std::vector<Area>;

// What a ring works with, beside its tensors.
struct Ring {
  const Mesh* mesh;
  Axes set;
  std::vector<Areas> areas;  // by place
  AttentionShape shape;      // of what one rank computes
  int neighbours;

  int size() const { return mesh->size(set) / neighbours; }
  int place(int steps_before) const {
    return (mesh->coordinate(set) / neighbours + size() - steps_before) % size();
  }
  int rank_at(int place) const {
    const int first = place * neighbours;
    return mesh->group(set)[std::size_t(first) + std::size_t(mesh->coordinate(set) % neighbours)];
  }
  // Whose keys are here at a step, and what this rank's queries see of them.
  const Areas& areas_at(int step) const { return areas[std::size_t(place(step))]; }
  bool is_seen(int step) const { return !areas_at(step).empty(); }
  bool is_last(int step) const { return step + 1 == size(); }

  Tensor keys_of(const Tensor& kv) const { return kv.columns(0, key_columns()); }
  Tensor values_of(const Tensor& kv) const { return kv.columns(key_columns(), kv.columns()); }
  std::int64_t key_columns() const { return shape.kv_heads * shape.head_dim; }
};

// x on its way to the next rank, and its like from the one before.
class Passing {
 public:
  Passing() = default;
  Passing(const char* kind, const Ring& ring, const Tensor& x, const Tensor& into)
      : x_(x), into_(into) {
    const Call call{kind, ring.set, x.dtype(), x.shape(), false, {}};
    Communicator& communicator = ring.mesh->communicator();
    receive_ = communicator.receive(ring.rank_at(ring.place(1)), call, bytes_of(into));
    send_ = communicator.send(ring.rank_at(ring.place(-1)), call, bytes_of(x));
  }
  void wait() {
    if (!send_) return;
    receive_->wait();
    send_->wait();
    *this = {};
  }

 private:
  Tensor x_, into_;  // which live longer than what is under way
  std::unique_ptr<Pending> receive_, send_;
};

Passing pass_keys(const Ring& ring, int step, const Tensor& kv, const Tensor& into) {
  if (ring.is_last(step)) return {};
  return {"ring_attention", ring, kv, into};
}

// Keys and values side by side: one message.
Tensor joined(const Tensor& k, const Tensor& v) {
  const PurposeScope of_part(parts::buffers);
  Tensor kv = Tensor::empty({k.rows(), k.columns() + v.columns()}, k.dtype(), k.device());
  backend(kv).copy(kv.columns(0, k.columns()), k);
  backend(kv).copy(kv.columns(k.columns(), kv.columns()), v);
  return kv;
}

void add_to(const Tensor& y, const Tensor& x) {
  const Tensor terms[] = {y, x};
  backend(y).add(y, terms);
}

Tensor buffer_like(const Tensor& x) {
  const PurposeScope of_part(parts::buffers);
  return Tensor::like(x);
}

// y of the accumulation type, and lse.
void forward(const Tensor& y, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
             const Ring& ring) {
  const Tensor part_y = Tensor::like(y), part_lse = Tensor::like(lse);
  Tensor kv = joined(k, v), next = buffer_like(kv);
  for (int step = 0; step < ring.size(); ++step) {
    Passing keys = pass_keys(ring, step, kv, next);
    const bool is_first = step == 0;
    if (is_first || ring.is_seen(step))
      attention_into(is_first ? y : part_y, is_first ? lse : part_lse, q, ring.keys_of(kv),
                     ring.values_of(kv), ring.areas_at(step), ring.shape);
    if (!is_first && ring.is_seen(step)) backend(y).merge_attention(y, lse, part_y, part_lse);
    keys.wait();
    std::swap(kv, next);
  }
}

// What backward was told and what forward left.
struct Undo {
  const Tensor &dy, &y, &lse, &q, &k, &v;
};

// Gradients dq and those of this rank's keys and values, dkv, of the accumulation type. With lse
// and y of all keys every part is on its own (Dao 2023, algorithm 2). Those of another rank's keys
// go the way that the keys go: the rank before has added to them what it, and those before it,
// found; the last of them brings them home.
void backward(const Tensor& dq, const Tensor& dkv, const Undo& in, const Ring& ring) {
  const Tensor part_dq = Tensor::like(dq), came = buffer_like(dkv);
  Tensor kv = joined(in.k, in.v), next = buffer_like(kv);
  Tensor part = buffer_like(dkv), sent = buffer_like(dkv);
  Passing gradients;
  for (int step = 0; step < ring.size(); ++step) {
    Passing keys = pass_keys(ring, step, kv, next);
    const bool is_first = step == 0;
    const Tensor& to = is_first ? dkv : part;
    if (is_first || ring.is_seen(step))
      attention_backward_into(is_first ? dq : part_dq, ring.keys_of(to), ring.values_of(to), in.dy,
                              in.y, in.lse, in.q, ring.keys_of(kv), ring.values_of(kv),
                              ring.areas_at(step), ring.shape);
    else
      backend(to).fill(to, 0);
    if (!is_first && ring.is_seen(step)) add_to(dq, part_dq);
    gradients.wait();
    if (step > 1) add_to(part, came);
    if (!is_first) {
      gradients = {"ring_attention_backward", ring, part, came};
      std::swap(part, sent);
    }
    keys.wait();
    std::swap(kv, next);
  }
  gradients.wait();
  if (ring.size() > 1) add_to(dkv, came);
}

// All neighbours' rows of this rank's heads, and back.
Tensor to_heads(const Tensor& x, const Ring& ring) {
  if (ring.neighbours == 1) return x;
  return swap_rows_for_columns(
      x, {"ring_attention_heads", *ring.mesh, ring.set, {}, false, ring.neighbours});
}
Tensor to_rows(const Tensor& x, const Ring& ring, const Label& label) {
  if (ring.neighbours == 1) return x.labelled(label);
  return swap_columns_for_rows(
      x, {"ring_attention_heads", *ring.mesh, ring.set, label, false, ring.neighbours});
}

Tensor rounded(const Tensor& sums, DType type) {
  Tensor y = Tensor::empty(sums.shape(), type, sums.device());
  backend(y).copy(y, sums);
  return y;
}

Ring make_ring(const Mesh& mesh, const Axes& set, std::vector<Areas> areas,
               const AttentionShape& shape, int neighbours) {
  require(neighbours >= 1 && mesh.size(set) % neighbours == 0 && shape.heads % neighbours == 0 &&
              shape.kv_heads % neighbours == 0,
          "ring_attention: ", neighbours, " neighbours of ", mesh.size(set), " ranks of ",
          name(set), " with ", shape.heads, " heads and ", shape.kv_heads, " KV heads");
  Ring ring{&mesh, set, std::move(areas), shape, neighbours};
  ring.shape.heads /= neighbours;
  ring.shape.kv_heads /= neighbours;
  require(ring.areas.size() == std::size_t(ring.size()), "ring_attention: areas for ",
          ring.areas.size(), " places; the ring on ", name(set), " has ", ring.size());
  return ring;
}

}  // namespace

Tensor ring_attention(const Tensor& q, const Tensor& k, const Tensor& v, std::vector<Areas> areas,
                      const AttentionShape& shape, const Mesh& mesh, const Axes& set,
                      int neighbours) {
  const Ring ring = make_ring(mesh, set, std::move(areas), shape, neighbours);
  if (mesh.size(set) == 1)
    return attention(q, shift(k, mesh, set, 0), shift(v, mesh, set, 0), ring.areas[0], shape);
  require(k.label() == v.label(), "ring_attention: k is ", text(k.label()), ", v ",
          text(v.label()));
  const Label others = move("ring_attention", k.label(), set, Spread::rows, Spread::others);
  const Label label = attention(q.label(), others);
  const Tensor hq = to_heads(q, ring), hk = to_heads(k, ring), hv = to_heads(v, ring);
  for (const Areas& part : ring.areas) check_attention(hq, hk, hv, part, ring.shape);

  const DType type = q.dtype(), of_sums = accumulation(type);
  Device& device = q.device();
  const Tensor lse = Tensor::empty({hq.rows(), ring.shape.heads}, of_sums, device);
  Tensor sums = Tensor::empty({hq.rows(), ring.shape.heads * ring.shape.values()}, of_sums, device);
  forward(sums, lse, hq, hk, hv, ring);
  const Tensor hy = rounded(std::exchange(sums, {}), type);
  const auto undo = [hq, hk, hv, hy, lse, ring, of_q = gradient_of(q.label()),
                     of_k = gradient_of(k.label())](const Tensor& dy) {
    const DType wide = lse.dtype();
    const Tensor dq = Tensor::empty(hq.shape(), wide, hq.device());
    const Tensor dkv = Tensor::empty({hk.rows(), hk.columns() + hv.columns()}, wide, hq.device());
    backward(dq, dkv, {to_heads(dy, ring), hy, lse, hq, hk, hv}, ring);
    return std::vector<Tensor>{to_rows(rounded(dq, hq.dtype()), ring, of_q),
                               to_rows(rounded(ring.keys_of(dkv), hq.dtype()), ring, of_k),
                               to_rows(rounded(ring.values_of(dkv), hq.dtype()), ring, of_k)};
  };
  return Tape::record(to_rows(hy, ring, label), {q, k, v}, false, undo);
}

}  // namespace pf
