#include "launch/lora.h"

#include <gtest/gtest.h>

#include "core/adapter.h"

namespace pf {
namespace {

TEST(ChooseTrained, AdaptsWhatFitsOnceAndFreezesTheRest) {
  Parameter q("layers.0.q", {6, 4}, Block{{}, {6, 4}}, Label{}),
      k("layers.0.k", {5, 4}, Block{{}, {5, 4}}, Label{}),
      norm("layers.0.norm", {4}, Block{{}, {4}}, Label{}, Init::ones);
  Pack pack("qk", {&q, &k});
  config::Train train;
  train.mutable_lora()->set_rank(2);
  train.mutable_lora()->set_alpha(3);
  train.mutable_lora()->set_on("*.q,layers.0.q, *q");
  choose_trained(train, [&](const Visitor& visitor) {
    for (Parameter* w : {&norm, &q, &k}) visitor.parameter(*w);
    visitor.pack(pack);
  });
  ASSERT_NE(q.adapter(), nullptr);
  EXPECT_EQ(q.adapter()->scale, 1.5);
  EXPECT_EQ(q.adapter()->a.shape(), Shape({2, 4}));
  EXPECT_EQ(k.adapter(), nullptr);
  for (const Parameter* w : {&q, &k, &norm}) EXPECT_FALSE(w->is_trainable());
}

}  // namespace
}  // namespace pf
