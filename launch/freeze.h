// Parameters that training leaves as they are.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/layer.h"

namespace pf {

// Whether all of `text` fits `pattern`, in which * stands for any text, the empty one too.
bool fits(std::string_view pattern, std::string_view text);

// What is between the commas, without spaces.
std::vector<std::string> split_patterns(const std::string& patterns);

// Those of `parameters` whose names fit the pattern; empty if none does.
std::vector<Parameter*> fitting(const std::string& pattern,
                                const std::vector<Parameter*>& parameters);
// The name that the pattern may have meant. Of at least one.
const std::string& nearest_name(const std::string& pattern,
                                const std::vector<Parameter*>& parameters);

// Throws Error that says what is wrong with a key. Empty where a part of a model is shown, a
// stage's: what fits nothing there may fit elsewhere.
using Complain = std::function<void(const std::string& key, const std::string& text)>;

// Freezes each parameter whose name fits one of `patterns`, which have commas between them.
// Complains of train.freeze for one that no name fits, and if nothing is left to train.
void freeze(const std::string& patterns, const std::function<void(const Visitor&)>& visit,
            const Complain& complain);

}  // namespace pf
