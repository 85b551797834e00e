// The ends of a transformer: ids to rows, and rows to a loss.
#pragma once

#include <optional>

#include "models/layer.h"
#include "models/model.pb.h"
#include "models/norm.h"
#include "parallel/mesh.h"

namespace pf {

// Ids to rows, plus learned positions where there are any. The vocabulary is cut over tp: each rank
// finds some rows, leave() sums them; positions are whole, and added to this rank's tokens.
class Embedding : public Layer {
 public:
  // `is_apart`: the head is on another rank.
  Embedding(const config::Model& c, bool is_apart, const Mesh& mesh);
  std::string name() const override { return "embedding"; }
  Tensor forward(const Tensor&, Context& context) override;
  Parameter& weight() { return w_; }

 private:
  void visit_parts(const Visitor& visitor) override;

  std::int64_t offset_;
  Parameter w_;
  std::optional<Parameter> positions_;
};

// The last norm, logits and their cross entropy, by chunks of rows: never more than a chunk of
// logits is in memory. The vocabulary is cut over tp; three numbers a token travel.
class Head : public Layer {
 public:
  // `tied`: the embedding's weights, or null where this rank has none.
  Head(const config::Model& c, std::int64_t chunk, Parameter* tied, const Mesh& mesh);
  std::string name() const override { return "head"; }
  // A root of the tape and no tensor; with context.wants_logits the logits.
  Tensor forward(const Tensor& x, Context& context) override;

 private:
  void visit_parts(const Visitor& visitor) override;
  // Of the rows [begin, end) of the micro-batch, which are h.
  Tensor loss(const Tensor& h, const Context& context, std::int64_t begin, std::int64_t end);

  std::int64_t chunk_;
  Norm norm_;
  std::optional<Parameter> own_;
  Parameter* w_;
  std::optional<Pack> pack_;
};

}  // namespace pf
