#include "models/specialisation.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "core/error.h"
#include "models/metrics.h"

namespace pf {
namespace {

// In f64: f32 stops counting at 2^24.
void add(std::map<int, Tensor>& sums, const std::map<int, Tensor>& slots) {
  for (const auto& [layer, x] : slots) {
    Tensor& sum = sums[layer];
    if (!sum) sum = Tensor::zeros(x.shape(), DType::f64, x.device(), x.label());
    const Tensor more = Tensor::like(sum);
    backend(more).copy(more, x);
    const Tensor terms[] = {sum, more};
    backend(sum).add(sum, terms);
  }
}

double sum_of(const std::vector<double>& xs) {
  return std::accumulate(xs.begin(), xs.end(), 0.0);
}

std::vector<std::size_t> favourites(const std::vector<double>& counts, std::int64_t top_k) {
  std::vector<std::size_t> experts(counts.size());
  std::iota(experts.begin(), experts.end(), std::size_t{0});
  std::ranges::stable_sort(experts, [&](auto a, auto b) { return counts[a] > counts[b]; });
  experts.resize(std::min(experts.size(), std::size_t(top_k)));
  std::erase_if(experts, [&](std::size_t e) { return counts[e] == 0; });
  std::ranges::sort(experts);
  return experts;
}

}  // namespace

void DomainChoices::add(const Statistics& micro_batch) {
  pf::add(counts_, micro_batch.counts);
  pf::add(scores_, micro_batch.scores);
}

std::vector<LayerChoices> DomainChoices::over_mesh(const Mesh& mesh, const MoeLayers& moe) const {
  const auto counts = layers_over_mesh(mesh, moe, counts_);
  const auto scores = layers_over_mesh(mesh, moe, scores_);
  std::vector<LayerChoices> layers;
  for (std::size_t i = 0; i < moe.numbers.size(); ++i)
    layers.push_back({moe.numbers[i], counts[i], sum_of(scores[i])});
  return layers;
}

double Specialisation::largest(std::size_t domain) const {
  return std::ranges::max(share[domain]);
}

std::vector<Specialisation> specialisation(const std::vector<std::vector<LayerChoices>>& domains,
                                           std::int64_t top_k) {
  for (const auto& domain : domains)
    require(std::ranges::equal(domain, domains[0], {}, &LayerChoices::layer, &LayerChoices::layer),
            "specialisation: domains of other layers: ", domain.size(), " and ", domains[0].size());
  std::vector<Specialisation> layers;
  for (std::size_t l = 0; !domains.empty() && l < domains[0].size(); ++l) {
    Specialisation& layer = layers.emplace_back();
    layer.layer = domains[0][l].layer;
    for (const auto& domain : domains) {
      const double choices = std::max(1.0, sum_of(domain[l].counts));
      std::vector<double>& share = layer.share.emplace_back(domain[l].counts);
      for (double& x : share) x /= choices;
      layer.score.push_back(domain[l].scores * double(top_k) / choices);
      std::vector<double>& overlap = layer.overlap.emplace_back();
      for (const auto& other : domains)
        overlap.push_back(overlap_of(domain[l].counts, other[l].counts, top_k));
    }
  }
  return layers;
}

double overlap_of(const std::vector<double>& counts, const std::vector<double>& other,
                  std::int64_t top_k) {
  std::vector<std::size_t> both;
  std::ranges::set_intersection(favourites(counts, top_k), favourites(other, top_k),
                                std::back_inserter(both));
  return double(both.size()) / double(top_k);
}

}  // namespace pf
