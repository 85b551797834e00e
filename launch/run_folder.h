// The folder of a run.
#pragma once

#include <string>

namespace pf {

// Makes an empty folder with all those above it. One that holds something already is renamed to
// FOLDER.N, with the smallest free N from 1, and the line that says so is returned; otherwise "".
// Throws Error with the path, also where FOLDER is not a folder.
std::string make_run_folder(const std::string& folder);

}  // namespace pf
