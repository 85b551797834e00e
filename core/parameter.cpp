#include "core/parameter.h"

#include <algorithm>

#include "core/adapter.h"
#include "core/error.h"
#include "core/tape.h"

namespace pf {

Parameter::Parameter(std::string name, Shape whole, Block block, Label label, Init init, double std,
                     std::optional<Role> role)
    : name_(std::move(name)),
      whole_(whole),
      block_(block),
      label_(label),
      init_(init),
      std_(std),
      role_(role.value_or(whole.dims() > 1     ? Role::matrix
                          : init == Init::ones ? Role::norm
                                               : Role::bias)) {
  for (Axis a : axes_of(label.view))
    require(label[a] != Spread::partial && label[a] != Spread::others, "parameter ", name_, ": ",
            pf::name(label[a]), " on ", pf::name(a),
            "; a parameter is whole, or cut in a named dim");
  require(block.extents.dims() == whole.dims(), "parameter ", name_, ": a block ", block.extents,
          " of ", whole);
}

Parameter::~Parameter() = default;

void Parameter::initialise(Device& device, DType type, std::uint64_t seed, std::uint32_t stream) {
  type_ = accumulation(type);
  const PurposeScope of_part(parts::weights);
  value_ = Tensor::empty(shape(), type_, device, label_);
  if (init_ == Init::normal) {
    backend(value_).normal(value_, {seed, stream, 0}, std_, whole_,
                           std::span(block_.begin).first(std::size_t(whole_.dims())));
  } else {
    backend(value_).fill(value_, init_ == Init::ones ? 1 : 0);
  }
  changed();
}

std::uint64_t Parameter::version() const {
  return version_ + (adapter_ ? adapter_->a.version() + adapter_->b.version() : 0);
}

void Parameter::adapt(std::int64_t rank, double scale) {
  require(!adapter_, "parameter ", name_, ": adapt() twice; merge() first");
  const bool is_matrix = whole_.dims() == 2 || whole_.dims() == 3;
  require(is_matrix && role_ != Role::embedding, "parameter ", name_, ' ', whole_,
          ": only matrices that products alone use can have an adapter");
  const std::int64_t most = std::min(whole_[-1], whole_[-2]);
  require(rank >= 1 && rank <= most, "parameter ", name_, ' ', whole_, ": an adapter of rank ",
          rank, "; wanted 1 to ", most);
  adapter_ = std::make_unique<Adapter>(*this, rank, scale);
  freeze();
  changed();
}

void Parameter::merge() {
  require(bool(adapter_), "parameter ", name_, ": merge() without an adapter");
  backend(value_).copy(value_, merged(*this));
  version_ = version() + 1;
  adapter_.reset();
}

void Parameter::make_gradient() {
  if (!gradient_ && place_late_) place_late_();
  if (gradient_) return;
  require(bool(value_), "parameter ", name_, ": a gradient before initialise()");
  const PurposeScope of_part(parts::gradients);
  gradient_ = Tensor::empty(shape(), value_.dtype(), value_.device(), gradient_of(label_));
}

const Tensor& Parameter::gradient() {
  make_gradient();
  if (!std::exchange(has_gradient_, true)) backend(gradient_).fill(gradient_, 0);
  return gradient_;
}

void Parameter::place_gradient(const Tensor& gradient) {
  require(gradient.shape() == shape() && gradient.dtype() == type_, "parameter ", name_,
          ": a gradient ", gradient.text(), " for ", pf::name(type_), ' ', shape());
  gradient_ = gradient.labelled(gradient_of(label_));
  has_gradient_ = false;
}

void Parameter::drop_gradient() {
  gradient_ = {};
  has_gradient_ = false;
}

void Parameter::place_value(const Tensor& place) {
  require(bool(value_), "parameter ", name_, ": a place for its value before initialise()");
  require(place.shape() == shape() && place.dtype() == type_, "parameter ", name_, ": a place ",
          place.text(), " for ", value_.text());
  backend(value_).copy(place, value_);
  show_value(place);
}

void Parameter::show_value(const Tensor& place) {
  value_ = place.labelled(label_);
  changed();
}

GradientTarget Parameter::gradient_target() {
  make_gradient();
  return {gradient_, std::exchange(has_gradient_, true)};
}

Pack::Pack(std::string name, std::vector<Parameter*> parts)
    : name_(std::move(name)), parts_(std::move(parts)) {
  require(!parts_.empty(), "pack ", name_, ": no parts");
  const Shape& first = parts_[0]->shape();
  packed_.groups = first.dims() == 3 ? first[0] : 1;
  packed_.inputs = first[-1];
  for (const Parameter* w : parts_) {
    const Shape& shape = w->shape();
    require(shape.dims() == first.dims() && shape.dims() >= 2 && shape[-1] == first[-1] &&
                (shape.dims() == 2 || shape[0] == first[0]),
            "pack ", name_, ": ", w->name(), " is ", shape, ", ", parts_[0]->name(), " is ", first);
    packed_.outputs += shape[-2];
  }
}

std::vector<Parameter*> Pack::sources() const {
  std::vector<Parameter*> out;
  for (Parameter* w : parts_) {
    out.push_back(w);
    if (Adapter* adapter = w->adapter()) out.insert(out.end(), {&adapter->a, &adapter->b});
  }
  return out;
}

bool Pack::is_trainable() const {
  return is_adapted() ||
         std::ranges::any_of(parts_, [](const Parameter* w) { return w->is_trainable(); });
}

bool Pack::is_adapted() const {
  return std::ranges::any_of(parts_, [](const Parameter* w) { return w->adapter() != nullptr; });
}

std::uint64_t Pack::version() const {
  std::uint64_t sum = 0;
  for (const Parameter* w : parts_) sum += w->version();
  return sum;
}

const Packed& Pack::packed(DType type) {
  if (is_made_ && packed_.type == type && made_of_ == version()) return packed_;
  for (const Parameter* w : parts_)
    require(bool(w->value()), "pack ", name_, ": ", w->name(),
            " is used before initialise(), or while its value is dropped");
  Device& device = parts_[0]->value().device();
  packed_.parts.clear();
  for (const Parameter* w : parts_)
    packed_.parts.push_back(w->adapter() != nullptr ? merged(*w) : w->value());
  if (!is_made_ || packed_.type != type) {
    packed_.type = type;
    const auto bytes = std::int64_t(device.backend().packed_bytes(packed_));
    const PurposeScope of_part(parts::copies);
    packed_.forward = bytes > 0 ? Tensor::empty({bytes}, DType::u8, device) : Tensor();
    packed_.backward = bytes > 0 ? Tensor::empty({bytes}, DType::u8, device) : Tensor();
    is_made_ = true;
  }
  if (packed_.forward) {
    const auto bytes = std::int64_t(device.backend().pack_workspace(packed_));
    device.backend().pack(packed_, Tensor::empty({bytes}, DType::u8, device));
    // Merged values have served: products read the copies.
    for (std::size_t i = 0; i < parts_.size(); ++i) packed_.parts[i] = parts_[i]->value();
  }
  made_of_ = version();
  return packed_;
}

Packed* Pack::copies() {
  return is_made_ && packed_.forward && !is_adapted() ? &packed_ : nullptr;
}

void Pack::rebuilt() {
  made_of_ = version();
}

void Pack::drop() {
  packed_.parts.clear();
  packed_.forward = packed_.backward = {};
  is_made_ = false;
}

BorrowedValue borrow(const Parameter& w) {
  require(bool(w.value()), "parameter ", w.name(),
          " is used before initialise(), or while its value is dropped");
  require(w.adapter() == nullptr, "parameter ", w.name(),
          " has an adapter, but is used without a pack; adapt only matrices of products");
  return {w.value(), Tape::is_recording() ? w.label() : constant(w.label())};
}

BorrowedPack borrow(Pack& w, DType type) {
  BorrowedPack out{w.packed(type), {}};
  for (const Parameter* part : w.parts())
    out.labels.push_back(Tape::is_recording() ? part->label() : constant(part->label()));
  return out;
}

}  // namespace pf
