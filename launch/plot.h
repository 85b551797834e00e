// `pentafold plot`: the curves of one or several runs as a picture.
#pragma once

#include <string>
#include <vector>

#include "launch/chart.h"
#include "launch/run_metrics.h"

namespace pf {

struct PlotOptions {
  bool is_smooth = false;  // moving averages, with what was measured faintly behind
  bool is_log = false;     // of the loss
};

// Loss, held-out bits per byte by domain, tokens per second, expert load, and how domains use
// experts. Several runs have a colour each, domains a dash; of one run each domain and layer has a
// colour.
std::vector<Panel> panels_of(const std::vector<RunMetrics>& runs, const PlotOptions& options);

// Values averaged with weights that fall by a factor e every `reach` points back, and that sum to
// 1 from the start. What is not finite is passed over.
std::vector<double> smoothed(const std::vector<double>& values, double reach);

// Throws Error unless `path` ends in .svg or .png.
void check_picture_name(const std::string& path);

// By the name's end; PNG is made by rsvg-convert, and an Error says what to install where it is
// missing.
void write_picture(const std::string& path, const std::string& svg);

}  // namespace pf
