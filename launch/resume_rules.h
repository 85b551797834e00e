// What may differ between a checkpoint's run and the one that goes on from it.
#pragma once

#include <string>
#include <vector>

#include "launch/config.pb.h"
#include "launch/config_fill.h"
#include "launch/data.h"

namespace pf {

struct Changed {
  std::string key, was, now;  // values as YAML; "none" for what is absent
};

struct Resumption {
  config::Config config;         // to go on with
  std::vector<Changed> changed;  // what may change and did, in schema order
};

// `stored`: to_yaml() of the configuration in `checkpoint`, perhaps by an older program: a key that
// it lacks counts as its default. `now`: today's, resolved.
//
// Fixed are the model, the data but for their paths, what decides which samples a step has, which
// weights are trained, and the kinds of states; the table is in resume_rules.cpp. Throws Error for
// a difference in these, with the place of the key today, what was found and what the checkpoint
// has. A fixed key that today's file does not give, so that it was worked out from others that may
// change (model.moe.balance.group from dp), gets the checkpoint's value in what is returned; the
// rules hold for that too.
Resumption resumed(const std::string& stored, const std::string& checkpoint,
                   const config::Config& now, const Places& places);

// "parallel.tp 1 -> 2, optimizer.lr 0.001 -> 0.0005 and 3 more"; "" without changes. Left out is
// what changes no numbers: names, folders, data paths, what is saved and how often, debug.
std::string in_words(const std::vector<Changed>& changed);

// `stored`: data.fingerprints() of the checkpoint's run. Throws Error with the place of the path of
// a source that has other tokens now.
void check_same_data(const std::string& stored, const std::string& checkpoint, const Data& now,
                     const Places& places);

}  // namespace pf
