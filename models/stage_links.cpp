#include "models/stage_links.h"

#include "core/error.h"
#include "parallel/collectives.h"

namespace pf {
namespace {

bool is_forward(Action::Kind kind) {
  return kind == Action::Kind::send_forward || kind == Action::Kind::receive_forward;
}

}  // namespace

Call StageLinks::call(const Action& action, const Tensor& x, std::int64_t micro_batch) const {
  const char* what = is_forward(action.kind) ? "activations" : "gradients";
  return {what,      axes::pp, x.dtype(),
          x.shape(), false,    "micro-batch " + std::to_string(micro_batch)};
}

// Tokens are cut over tp between the blocks: what is sent is already 1/tp of it.
void StageLinks::post_receive(const Action& receive, int stage, const Context& context) {
  const std::int64_t rows = context.batch.ids.size() / mesh_->size(axes::tp);
  const PurposeScope of_part("pipeline");
  const Label residual = dense(Spread::rows, Spread::rows, Spread::rows);
  const Tensor x = Tensor::empty({rows, hidden_}, context.type, mesh_->device(),
                                 is_forward(receive.kind) ? residual : gradient_of(residual));
  const int from = mesh_->group(axes::pp)[std::size_t(stage)];
  auto pending =
      mesh_->communicator().receive(from, call(receive, x, context.micro_batch), bytes_of(x));
  arriving_.emplace(key(receive), Message{x, std::move(pending)});
}

Tensor StageLinks::take(const Action& receive) {
  const auto found = arriving_.find(key(receive));
  require(found != arriving_.end(), "pipeline: ", text(receive), " was not posted");
  found->second.pending->wait();
  Tensor x = std::move(found->second.data);
  arriving_.erase(found);
  return x;
}

void StageLinks::send(const Action& send, int stage, const Tensor& x, std::int64_t micro_batch) {
  require(bool(x), "pipeline: ", text(send), ", but there is nothing to send");
  const Tensor data = contiguous(x.detached());
  const int to = mesh_->group(axes::pp)[std::size_t(stage)];
  Message& message = leaving_[{send.kind, send.chunk}];
  if (message.pending) message.pending->wait();
  auto pending = mesh_->communicator().send(to, call(send, data, micro_batch), bytes_of(data));
  message = {data, std::move(pending)};
}

void StageLinks::poll() {
  for (auto& [key, message] : leaving_) message.pending->poll();
  for (auto& [key, message] : arriving_) message.pending->poll();
}

void StageLinks::finish() {
  for (auto& [key, message] : leaving_) message.pending->wait();
  leaving_.clear();
}

}  // namespace pf
