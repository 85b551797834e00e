// Weights: what is trained, and the form in which products want it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/tensor.h"

namespace pf {

// The part of a whole tensor that one rank holds: `begin` and `extents` in each dim.
struct Block {
  std::array<std::int64_t, Shape::max_dims> begin{};
  Shape extents;
};

enum class Init : std::uint8_t { normal, ones, zeros };

// What a parameter is for; optimizers and decay go by it.
enum class Role : std::uint8_t { matrix, embedding, head, router, norm, bias };

struct Adapter;

// A trained tensor, cut as its label says. Its value and gradient are of the accumulation type. The
// gradient is a sum over everything this rank has run since the last clear_gradient(); the sum over
// the axes on which the label is replicated is still to come.
class Parameter {
 public:
  Parameter(std::string name, Shape whole, Block block, Label label, Init init = Init::normal,
            double std = 0, std::optional<Role> role = {});
  ~Parameter();
  Parameter(const Parameter&) = delete;
  Parameter& operator=(const Parameter&) = delete;

  const std::string& name() const { return name_; }
  const Shape& whole() const { return whole_; }
  const Shape& shape() const { return block_.extents; }
  const Block& block() const { return block_; }
  std::int64_t size() const { return shape().size(); }
  const Label& label() const { return label_; }
  bool is_trainable() const { return is_trainable_; }
  void freeze() { is_trainable_ = false; }
  // As given; if not, of more than one dim a matrix, else a norm if it starts at ones, else a bias.
  Role role() const { return role_; }

  // Allocates the value and fills it from global indices, so that it does not depend on the layout;
  // `stream` is this parameter's own stream of `seed`.
  void initialise(Device& device, DType type, std::uint64_t seed, std::uint32_t stream);
  // Of value and gradient, from initialise() on.
  DType type() const { return type_; }
  // Empty before initialise() and between drop_value() and show_value().
  const Tensor& value() const { return value_; }
  // Call after writing to value(): packs are rebuilt when next borrowed.
  void changed() { ++version_; }
  std::uint64_t version() const;
  // Moves the value to `place`, which is like it.
  void place_value(const Tensor& place);
  // The value is gone; it is what lies in `place`.
  void drop_value() { value_ = {}; }
  void show_value(const Tensor& place);

  // The gradient, allocated on first use unless a bucket gave it a place. Zeros if nothing wrote
  // it.
  const Tensor& gradient();
  void place_gradient(const Tensor& gradient);
  // Whenever a gradient without a place is used, `place` runs first, and calls place_gradient().
  void place_gradient_late(std::function<void()> place) { place_late_ = std::move(place); }
  void drop_gradient();
  // Where an op writes: the first write after clear_gradient() overwrites, later ones add.
  GradientTarget gradient_target();
  bool has_gradient() const { return has_gradient_; }
  void clear_gradient() { has_gradient_ = false; }

  // The low-rank change (core/adapter.h) with which products use this matrix; null without one.
  Adapter* adapter() const { return adapter_.get(); }
  // Freezes the matrix and gives it an adapter, which is still to be initialised; before gradients
  // and optimizers are made for the model's parameters. Throws Error unless this is a matrix, or
  // one for each expert, that is not looked up by rows, with no side below the rank.
  void adapt(std::int64_t rank, double scale);
  // The value becomes what products use, to the bit, and the adapter goes. Nothing that refers to
  // its parameters may be used again.
  void merge();

 private:
  void make_gradient();

  std::string name_;
  Shape whole_;
  Block block_;
  Label label_;
  Init init_;
  double std_;
  Role role_;
  bool is_trainable_ = true, has_gradient_ = false;
  std::uint64_t version_ = 0;
  DType type_ = DType::f32;
  Tensor value_, gradient_;
  std::function<void()> place_late_;
  std::unique_ptr<Adapter> adapter_;
};

// Several weights [out_i, in], or [experts, out_i, in], that one product uses, stacked along their
// outputs: q, k and v; gate and up. Their blocked copies in the operands' type are derived from the
// values (of an adapted part, from W + scale B A) and rebuilt when a value changed. Parts may be
// cut differently.
class Pack {
 public:
  Pack(std::string name, std::vector<Parameter*> parts);
  Pack(const Pack&) = delete;
  Pack& operator=(const Pack&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<Parameter*>& parts() const { return parts_; }
  // All that it is made of: parts, and their adapters' matrices.
  std::vector<Parameter*> sources() const;
  // A part is trained, or an adapter of one.
  bool is_trainable() const;

  // For borrow(): the blocked copies for operands of `type`, up to date.
  const Packed& packed(DType type);
  // For optimizers that rebuild the copies while they change the values; null if never borrowed in
  // a type that wants copies, or if a part is adapted. Call rebuilt() afterwards.
  Packed* copies();
  void rebuilt();
  // Frees the copies, as the values that they were made of are dropped.
  void drop();

 private:
  std::uint64_t version() const;
  bool is_adapted() const;

  std::string name_;
  std::vector<Parameter*> parts_;
  Packed packed_;
  bool is_made_ = false;
  std::uint64_t made_of_ = 0;  // version
};

// What an op gets of a weight. Without a tape it is a constant, so that it fits either form of an
// activation (invariant or replicated).
struct BorrowedValue {
  const Tensor& value;
  Label label;
};
struct BorrowedPack {
  const Packed& packed;
  std::vector<Label> labels;  // of the parts
};

// The only way by which ops get weights.
BorrowedValue borrow(const Parameter& w);
BorrowedPack borrow(Pack& w, DType type);

}  // namespace pf
