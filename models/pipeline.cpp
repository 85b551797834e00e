#include "models/pipeline.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/trace.h"
#include "models/stage_links.h"

namespace pf {
namespace {

using Kind = Action::Kind;

bool is_backward(Kind kind) {
  return kind == Kind::backward || kind == Kind::input_gradient;
}

// Action `kind` that ends the weight gradients of a micro-batch.
bool ends_weights(Kind kind) {
  return kind == Kind::backward || kind == Kind::weight_gradient;
}

}  // namespace

std::vector<LayerRange> divide_layers(std::int64_t layers, int parts,
                                      const std::vector<std::int64_t>& counts) {
  std::vector<std::int64_t> sizes = counts;
  if (sizes.empty()) {
    sizes.assign(std::size_t(parts), layers / parts);
    // Outside in: the first, the last, the second, ...
    for (std::int64_t i = 0; i < layers % parts; ++i)
      ++sizes[std::size_t(i % 2 == 0 ? i / 2 : parts - 1 - i / 2)];
  }
  const std::int64_t sum = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  require(std::ssize(sizes) == parts && sum == layers && std::ranges::min(sizes) > 0,
          "stages: found ", sizes.size(), " of together ", sum, " layers, the smallest of ",
          std::ranges::min(sizes), "; wanted ", parts, " of together ", layers,
          " (embedding and head are layers), none without one");
  std::vector<LayerRange> ranges;
  std::size_t begin = 0;
  for (const std::int64_t size : sizes) {
    ranges.push_back({begin, begin + std::size_t(size)});
    begin = ranges.back().end;
  }
  return ranges;
}

std::vector<LayerRange> stages_of_rank(const Mesh& mesh, ScheduleKind kind, int chunks,
                                       const std::vector<LayerRange>& all) {
  const ScheduleShape shape{kind, mesh.size(axes::pp), chunks, 1};
  std::vector<LayerRange> own;
  own.reserve(std::size_t(chunks));
  for (int chunk = 0; chunk < chunks; ++chunk)
    own.push_back(all.at(std::size_t(virtual_stage(shape, mesh.coordinate(axes::pp), chunk))));
  return own;
}

Schedule schedule_of_step(ScheduleShape shape, std::int64_t together) {
  shape.together = int(together);
  Schedule schedule = make_schedule(shape);
  const std::int64_t last_of_all = shape.micro_batches - 1;
  for (std::size_t rank = 0; rank < schedule.ranks.size() && together > 1; ++rank) {
    std::map<int, int> forwarded;  // by chunk: micro-batches
    for (const Action& action : schedule.ranks[rank]) {
      if (action.kind == Kind::forward) ++forwarded[action.chunk];
      if (!is_backward(action.kind)) continue;
      const std::int64_t last =
          std::min((action.micro_batch / together + 1) * together - 1, last_of_all);
      require(forwarded[action.chunk] > last, "the choices of ", together,
              " micro-batches of a replica are counted together (model.moe.balance.group), but ",
              text(shape), " runs '", text(action), "' on stage ", rank, " after ",
              forwarded[action.chunk], " of them went forward; use 1f1b, zbh1 or gpipe");
    }
  }
  return schedule;
}

Pipeline::Pipeline(ScheduleKind kind, Transformer& model, Gradients& gradients, Balance& balance,
                   const Mesh& mesh)
    : kind_(kind),
      model_(&model),
      balance_(&balance),
      mesh_(&mesh),
      stage_(model.layers(), gradients) {}

const Schedule& Pipeline::schedule_of(std::int64_t micro_batches) {
  if (micro_batches != micro_batches_) {
    schedule_ = schedule_of_step(
        {kind_, mesh_->size(axes::pp), int(model_->stages().size()), int(micro_batches)},
        balance_->steps_together());
    micro_batches_ = micro_batches;
  }
  return schedule_;
}

// One step on one rank.
class Pipeline::Run {
 public:
  Run(Pipeline& pipeline, const Schedule& schedule, const PipelineHooks& hooks)
      : pipeline_(pipeline),
        shape_(schedule.shape),
        rank_(pipeline.mesh_->coordinate(axes::pp)),
        actions_(schedule.ranks[std::size_t(rank_)]),
        hooks_(hooks),
        flights_(std::size_t(shape_.micro_batches)),
        statistics_(flights_.size()),
        links_(*pipeline.mesh_, pipeline.model_->hidden()) {
    for (const Action& action : actions_) {
      if (ends_weights(action.kind)) last_weights_[action.chunk] = action.micro_batch;
      ++actions_left_[action.micro_batch];
    }
  }

  std::vector<Statistics> take_statistics() && {
    for (std::size_t i = 0; i < actions_.size(); ++i) {
      post_receives(i);
      perform(actions_[i]);
      if (--actions_left_[actions_[i].micro_batch] == 0) land(actions_[i].micro_batch);
    }
    hooks_.enter("pipeline");
    links_.finish();
    return std::move(statistics_);
  }

 private:
  // A tensor that goes from one chunk of this rank to the next, or its gradient back.
  using Handed = std::map<std::pair<int, int>, Tensor>;  // by chunk that takes it, micro-batch

  LayerRange range(int chunk) const { return pipeline_.model_->stages()[std::size_t(chunk)]; }

  int neighbour_chunk(const Action& action, int by) const {
    return chunk_of(shape_, virtual_stage(shape_, rank_, action.chunk) + by);
  }

  Flight& flight(int micro_batch) {
    std::unique_ptr<Flight>& found = flights_[std::size_t(micro_batch)];
    if (!found) {
      hooks_.enter("data");
      found = std::make_unique<Flight>();
      hooks_.prepare(found->context, micro_batch);
    }
    return *found;
  }

  void land(int micro_batch) {
    std::unique_ptr<Flight>& done = flights_[std::size_t(micro_batch)];
    statistics_[std::size_t(micro_batch)] = std::move(done->context.statistics);
    done.reset();
  }

  // Those before the work that follows this one, so that they travel while it runs.
  void post_receives(std::size_t at) {
    std::size_t works = is_work(actions_[at].kind) ? 0 : 1;
    for (posted_ = std::max(posted_, at); posted_ < actions_.size(); ++posted_) {
      const Action& action = actions_[posted_];
      if (is_work(action.kind) && ++works > 1) break;
      if (is_receive(action.kind))
        links_.post_receive(action, peer(shape_, rank_, action),
                            flight(action.micro_batch).context);
    }
  }

  // What `kind` of action brings this work's input: from another rank, or from this one.
  Tensor input(const Action& work, Kind receive, Handed& handed) {
    const Action action{receive, work.chunk, work.micro_batch};
    if (links_.has(action)) {
      hooks_.enter("pipeline");
      return links_.take(action);
    }
    const auto found = handed.find({work.chunk, work.micro_batch});
    if (found == handed.end()) return {};
    Tensor x = std::move(found->second);
    handed.erase(found);
    return x;
  }

  void perform(const Action& action) {
    if (is_receive(action.kind)) return;
    Flight& now = flight(action.micro_batch);
    if (is_send(action.kind)) {
      Handed& made = action.kind == Kind::send_forward ? outputs_ : input_gradients_;
      const auto found = made.find({action.chunk, action.micro_batch});
      require(found != made.end(), "pipeline: ", text(action), " before there is anything to send");
      links_.send(action, peer(shape_, rank_, action), found->second, now.context.micro_batch);
      made.erase(found);
      return;
    }
    links_.poll();
    if (action.kind == Kind::forward) {
      forward(action, now);
    } else if (action.kind == Kind::weight_gradient) {
      hooks_.enter("backward");
      const Span span("action", "", text(action));
      pipeline_.stage_.weight_gradients(now, range(action.chunk), is_last(action));
    } else {
      backward(action, now);
    }
  }

  bool is_last(const Action& action) const {
    return last_weights_.at(action.chunk) == action.micro_batch;
  }

  void forward(const Action& action, Flight& now) {
    const Tensor x = input(action, Kind::receive_forward, handed_on_);
    hooks_.enter("forward");
    const Span span("action", "", text(action));
    const Tensor y = pipeline_.stage_.forward(now, range(action.chunk), x);
    hooks_.after_forward(now, range(action.chunk));
    const int next = virtual_stage(shape_, rank_, action.chunk) + 1;
    if (next == virtual_stages(shape_)) return;
    if (rank_of(shape_, next) == rank_)
      handed_on_[{chunk_of(shape_, next), action.micro_batch}] = y;
    else
      outputs_[{action.chunk, action.micro_batch}] = y;
  }

  void backward(const Action& action, Flight& now) {
    Tensor dy = input(action, Kind::receive_backward, handed_back_);
    hooks_.enter("balance");
    pipeline_.balance_->bind(now.context.micro_batch);
    hooks_.enter("backward");
    const Span span("action", "", text(action));
    const Stage::Weights weights = action.kind == Kind::input_gradient ? Stage::Weights::later
                                   : is_last(action)                   ? Stage::Weights::last
                                                                       : Stage::Weights::more;
    const Tensor dx = pipeline_.stage_.backward(now, range(action.chunk), std::move(dy), weights);
    const int previous = virtual_stage(shape_, rank_, action.chunk) - 1;
    if (previous < 0) return;
    if (rank_of(shape_, previous) == rank_)
      handed_back_[{chunk_of(shape_, previous), action.micro_batch}] = dx;
    else
      input_gradients_[{action.chunk, action.micro_batch}] = dx;
  }

  Pipeline& pipeline_;
  ScheduleShape shape_;
  int rank_;
  const std::vector<Action>& actions_;
  const PipelineHooks& hooks_;
  std::vector<std::unique_ptr<Flight>> flights_;  // by micro-batch of this replica
  std::vector<Statistics> statistics_;
  std::map<int, int> last_weights_;  // by chunk: the micro-batch whose weight work is the last
  std::map<int, int> actions_left_;  // by micro-batch
  Handed handed_on_, handed_back_, outputs_, input_gradients_;
  std::size_t posted_ = 0;
  StageLinks links_;
};

std::vector<Statistics> Pipeline::run(std::int64_t count, const PipelineHooks& hooks) {
  return Run(*this, schedule_of(count), hooks).take_statistics();
}

Tensor Pipeline::evaluate(Context& context) {
  const ScheduleShape shape{kind_, mesh_->size(axes::pp), int(model_->stages().size()), 1};
  const int rank = mesh_->coordinate(axes::pp);
  StageLinks links(*mesh_, model_->hidden());
  Tensor x;
  for (int stage = 0; stage < virtual_stages(shape); ++stage) {
    if (rank_of(shape, stage) != rank) continue;
    const int chunk = chunk_of(shape, stage);
    const bool is_first = stage == 0, is_last = stage + 1 == virtual_stages(shape);
    if (!is_first && rank_of(shape, stage - 1) != rank) {
      const Action receive{Kind::receive_forward, chunk, 0};
      links.post_receive(receive, rank_of(shape, stage - 1), context);
      x = links.take(receive);
    }
    x = stage_.evaluate(context, model_->stages()[std::size_t(chunk)], x);
    if (is_last || rank_of(shape, stage + 1) == rank) continue;
    links.send({Kind::send_forward, chunk, 0}, rank_of(shape, stage + 1), x, context.micro_batch);
    x = {};
  }
  links.finish();
  return x;
}

}  // namespace pf
