#include "io/expected_use.h"

#include <algorithm>
#include <cmath>

namespace pygrok {
namespace {

constexpr double kHalfLives[] = {4, 16, 64, 256};  // tokens
// Tokens after which a memory's success counts half.
constexpr double kLossHalfLife = 64;
// What an expert is taken to have been used before anything was seen, in tokens.
constexpr double kPriorTokens = 4;
constexpr double kPriorShare = 0.25;
constexpr double kLeastShare = 1e-4;
constexpr double kFavored = 0.95;
constexpr double kDoubt = 0.02;  // no memory is surer than that when it is judged

}  // namespace

ExpectedUse::ExpectedUse(size_t layers, size_t experts)
    : layers_(layers), experts_(experts), now_(layers - 1), seen_(layers, kPriorTokens) {
  Values prior;
  prior.fill(kPriorShare);
  share_.assign(layers * experts, prior);
  weight_.fill(1.0 / kMemories);
}

void ExpectedUse::Observe(size_t layer, std::span<const float> shares, size_t tokens) {
  now_ = layer;
  Judge(layer, shares);
  const auto n = static_cast<double>(tokens);
  for (size_t k = 0; k < kMemories; ++k) {
    // The plain mean of what was seen, as long as that is little.
    const double keep = std::min(std::exp2(-n / kHalfLives[k]), seen_[layer] / (seen_[layer] + n));
    for (size_t e = 0; e < experts_; ++e) {
      double& share = share_[layer * experts_ + e][k];
      share = keep * share + (1 - keep) * static_cast<double>(shares[e]);
    }
  }
  seen_[layer] += n;
}

void ExpectedUse::Judge(size_t layer, std::span<const float> shares) {
  const double keep = std::exp2(-1 / (kLossHalfLife * static_cast<double>(layers_)));
  for (size_t k = 0; k < kMemories; ++k) {
    double loss = 0;
    for (size_t e = 0; e < experts_; ++e) {
      const double p = std::clamp(share_[layer * experts_ + e][k], kDoubt, 1 - kDoubt);
      const auto used = static_cast<double>(shares[e]);
      loss -= used * std::log(p) + (1 - used) * std::log(1 - p);
    }
    loss_[k] = keep * loss_[k] + loss / static_cast<double>(layers_);
  }
  const double least = *std::min_element(loss_.begin(), loss_.end());
  double sum = 0;
  for (size_t k = 0; k < kMemories; ++k) sum += weight_[k] = std::exp(least - loss_[k]);
  for (double& weight : weight_) weight /= sum;
}

void ExpectedUse::Favor(size_t group) { share_[group].fill(kFavored); }

double ExpectedUse::NextVisit(size_t group) const {
  return static_cast<double>((group / experts_ + layers_ - now_ - 1) % layers_ + 1);
}

double ExpectedUse::Distance(size_t group) const {
  double share = 0;
  for (size_t k = 0; k < kMemories; ++k) share += weight_[k] * share_[group][k];
  return NextVisit(group) + (1 / std::max(share, kLeastShare) - 1) * static_cast<double>(layers_);
}

}  // namespace pygrok
