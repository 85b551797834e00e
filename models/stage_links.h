// What travels between the stages of a pipeline: activations on, gradients back.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "models/context.h"
#include "parallel/schedule.h"

namespace pf {

// One rank's ends of them. Receives do not block; a send waits for the one before it of the same
// chunk and direction, so that what is in memory does not depend on timing. The n-th send to a rank
// meets its n-th receive.
class StageLinks {
 public:
  StageLinks(const Mesh& mesh, std::int64_t hidden) : mesh_(&mesh), hidden_(hidden) {}

  // `stage`: the other end. Posted now, asked for later.
  void post_receive(const Action& receive, int stage, const Context& context);
  bool has(const Action& receive) const { return arriving_.contains(key(receive)); }
  Tensor take(const Action& receive);  // waits until it has come
  void send(const Action& send, int stage, const Tensor& x, std::int64_t micro_batch);

  void poll();    // makes progress
  void finish();  // waits until all that was sent has arrived

 private:
  using Key = std::tuple<Action::Kind, int, int>;
  static Key key(const Action& a) { return {a.kind, a.chunk, a.micro_batch}; }

  struct Message {
    Tensor data;
    std::unique_ptr<Pending> pending;  // withdrawn before the memory goes
  };
  Call call(const Action& action, const Tensor& x, std::int64_t micro_batch) const;

  const Mesh* mesh_;
  std::int64_t hidden_;
  std::map<Key, Message> arriving_;
  std::map<std::pair<Action::Kind, int>, Message> leaving_;  // by kind and chunk
};

}  // namespace pf
