#include "core/tape.h"

#include <algorithm>
#include <atomic>

#include "core/backend.h"
#include "core/error.h"

namespace pf {
namespace {

// Slots name their tape, so that a tensor of another tape is noticed. Serial numbers are only
// compared.
std::uint64_t next_serial() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

bool wants_gradient(const Tensor& x) {
  return x && x.slot().index >= 0 && !x.label().constant;
}

Purpose purpose_of_backward(std::string_view op) {
  return {PurposeScope::current().part, op, true};
}

}  // namespace

Tape::Tape() : serial_(next_serial()) {}

int Tape::find(const Tensor& x) const {
  return x && x.slot().tape == serial_ && !x.label().constant ? x.slot().index : -1;
}

Tape::Outline Tape::outline(const Tensor& x) const {
  if (!x) return {};
  return {find(x), x.shape(), x.dtype(), x.label(), &x.device()};
}

Tensor Tape::zeros(const Outline& x) {
  return Tensor::zeros(x.shape, x.type, *x.device, gradient_of(x.label));
}

Tensor Tape::watch(const Tensor& x) {
  gradients_.emplace_back();
  return x.with_slot({serial_, int(gradients_.size()) - 1});
}

void Tape::root(const Tensor& loss) {
  if (current_ == nullptr) return;
  require(loss.size() == 1, "backward: the loss is ", loss.text(), "; a scalar is wanted");
  require_root(loss.label());
  require(current_->find(loss) >= 0 || loss.slot().index < 0 || loss.label().constant ||
              !current_->saves_,
          "backward: the loss belongs to another tape: ", loss.text());
  if (current_->find(loss) >= 0) current_->roots_.push_back(current_->outline(loss));
}

std::vector<Tensor> Tape::record(std::vector<Tensor> outputs, const std::vector<Tensor>& inputs,
                                 bool has_weights, Backward backward, const char* op) {
  if (current_ == nullptr || !current_->saves_) return outputs;
  Node node;
  bool is_needed = has_weights;
  for (const Tensor& x : inputs) {
    const int slot = current_->find(x);
    require(slot >= 0 || !x || x.slot().index < 0 || x.label().constant,
            "tape: an input belongs to another tape: ", x.text(), "; watch() it");
    is_needed = is_needed || slot >= 0;
    node.inputs.push_back(current_->outline(x));
  }
  if (!is_needed) return outputs;
  for (Tensor& y : outputs) {
    if (y && !y.label().constant) y = current_->watch(y);
    node.outputs.push_back(current_->outline(y));
  }
  node.backward = std::move(backward);
  node.purpose = purpose_of_backward(op);
  current_->nodes_.push_back(std::move(node));
  return outputs;
}

void Tape::add(const Outline& x, Tensor gradient) {
  const Label wanted = gradient_of(x.label);
  require(gradient.label().view == wanted.view && gradient.label().on == wanted.on,
          "backward: the gradient of a tensor that is ", text(x.label), " is ",
          text(gradient.label()), "; wanted ", text(wanted));
  require(gradient.shape() == x.shape && gradient.dtype() == x.type, "backward: the gradient of ",
          name(x.type), ' ', x.shape, " is ", gradient.text());
  Tensor& sum = gradients_[std::size_t(x.slot)];
  if (!sum) {
    sum = std::move(gradient);
    return;
  }
  const auto is_free = [](const Tensor& term) {
    return term.sharers() == 1 && term.is_contiguous();  // nothing else has it
  };
  const Tensor total = is_free(sum) ? sum : is_free(gradient) ? gradient : Tensor::like(gradient);
  const Tensor terms[] = {sum, gradient};
  backend(total).add(total, terms);
  sum = total;
}

void Tape::backward(std::span<const Tensor> ys, std::span<const Tensor> dys,
                    std::vector<Work>* deferred) {
  require(ys.size() == dys.size(), "backward: ", ys.size(), " tensors, ", dys.size(), " gradients");
  for (std::size_t i = 0; i < ys.size(); ++i) {
    require(find(ys[i]) >= 0, "backward: the tensor is not of this tape: ", ys[i].text());
    add(outline(ys[i]), dys[i]);
  }
  undo(deferred);
}

void Tape::backward_from(const Tensor& y, Tensor dy, std::vector<Work>* deferred) {
  require(find(y) >= 0, "backward: the tensor is not of this tape: ", y.text());
  add(outline(y), std::move(dy));
  undo(deferred);
}

void Tape::undo(std::vector<Work>* deferred) {
  const Recording pause(nullptr);
  const PurposeScope undoing(purpose_of_backward("backward"));
  struct Restore {
    Tape* undone;
    std::vector<Work>* outer;
    ~Restore() {
      undone_ = undone;
      deferred_ = outer;
    }
  } restore{std::exchange(undone_, this),
            std::exchange(deferred_, deferred != nullptr ? deferred : deferred_)};

  for (const Outline& loss : std::exchange(roots_, {}))
    add(loss, Tensor::scalar(1, loss.type, *loss.device, gradient_of(loss.label)));

  for (; !nodes_.empty(); nodes_.pop_back()) {
    const Node& node = nodes_.back();
    const PurposeScope of_node(node.purpose);
    std::vector<Tensor> arrived;
    arrived.reserve(node.outputs.size());
    for (const Outline& y : node.outputs) {
      Tensor dy;
      if (y.slot >= 0) {
        dy = std::exchange(gradients_[std::size_t(y.slot)], {});
        if (!dy) dy = zeros(y);
      }
      arrived.push_back(std::move(dy));
    }
    std::vector<Tensor> made = node.backward(arrived);
    arrived.clear();
    require(made.size() == node.inputs.size(), "backward: ", made.size(), " gradients for ",
            node.inputs.size(), " inputs");
    for (std::size_t i = 0; i < made.size(); ++i)
      if (node.inputs[i].slot >= 0 && made[i]) add(node.inputs[i], std::move(made[i]));
  }
}

GradientTarget Tape::gradient_target(const Tensor& x) {
  if (Tensor sum = take_sum(x.slot())) return {sum, true};
  return {Tensor::gradient_like(x), false};
}

Tensor Tape::take_sum(const Slot& slot) {
  if (undone_ == nullptr || undone_->serial_ != slot.tape || slot.index < 0) return {};
  Tensor& sum = undone_->gradients_[std::size_t(slot.index)];
  return sum && sum.sharers() == 1 ? std::exchange(sum, {}) : Tensor();
}

Tensor Tape::gradient(const Tensor& x) {
  require(find(x) >= 0, "gradient: the tensor was not watched by this tape: ", x.text());
  Tensor found = std::exchange(gradients_[std::size_t(x.slot().index)], {});
  return found ? found : zeros(outline(x));
}

void Tape::rebuild(const Tensor& x, std::function<Tensor()> make) {
  if (current_ == nullptr || !current_->saves_) return;
  x.drop_data();
  current_->nodes_.push_back({{},
                              {},
                              [x, make = std::move(make)](std::span<const Tensor>) {
                                x.take_data(make());
                                return std::vector<Tensor>{};
                              },
                              purpose_of_backward("rebuild")});
}

void Tape::weight_work(Work work) {
  if (deferred_ != nullptr) {
    deferred_->push_back([purpose = PurposeScope::current(), work = std::move(work)] {
      const PurposeScope of_work(purpose);
      work();
    });
  } else {
    work();
  }
}

std::vector<Tensor> recompute(const Segment& segment, std::vector<Tensor> inputs) {
  if (!Tape::is_recording()) return segment(inputs);
  std::vector<Tensor> outputs;
  {
    Tape blank;  // weights keep their labels, as in the second run
    blank.saves_ = false;
    const Tape::Recording on(&blank);
    outputs = segment(inputs);
  }
  return Tape::record(outputs, inputs, true, [segment, inputs](std::span<const Tensor> dys) {
    Tape again;
    std::vector<Tensor> leaves, ys;
    leaves.reserve(inputs.size());
    for (const Tensor& x : inputs) leaves.push_back(wants_gradient(x) ? again.watch(x) : x);
    {
      const Tape::Recording on(&again);
      const PurposeScope by_op({PurposeScope::current().part, {}, true});
      ys = segment(leaves);
    }
    std::vector<Tensor> marked, arrived;
    for (std::size_t i = 0; i < ys.size(); ++i) {
      if (!dys[i] || ys[i].slot().index < 0) continue;
      marked.push_back(ys[i]);
      arrived.push_back(dys[i]);
    }
    ys.clear();
    again.backward(marked, arrived);
    std::vector<Tensor> gradients;
    gradients.reserve(leaves.size());
    for (const Tensor& x : leaves)
      gradients.push_back(wants_gradient(x) ? again.gradient(x) : Tensor());
    return gradients;
  });
}

}  // namespace pf
