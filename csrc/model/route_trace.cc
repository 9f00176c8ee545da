#include "model/route_trace.h"

#include <algorithm>
#include <string>
#include <utility>

#include "util/error.h"

namespace pygrok {

RouteTrace::RouteTrace(const Config& config, bool probabilities)
    : layers_(config.layers),
      used_(config.experts_used),
      experts_(config.experts),
      with_probabilities_(probabilities) {
  if (experts_ > kNotRouted) {
    throw ModelError("routing cannot be recorded: the model has " + std::to_string(experts_) +
                     " experts, a record names at most " + std::to_string(kNotRouted));
  }
}

void RouteTrace::Begin(const std::vector<int32_t>& sessions, const std::vector<int32_t>& positions) {
  batch_ = record_.positions.size();
  record_.sessions.insert(record_.sessions.end(), sessions.begin(), sessions.end());
  record_.positions.insert(record_.positions.end(), positions.begin(), positions.end());
  const size_t rows = record_.positions.size();
  record_.experts.resize(rows * layers_ * used_, kNotRouted);
  if (with_probabilities_) record_.probabilities.resize(rows * layers_ * experts_);
}

void RouteTrace::Record(size_t layer, const std::vector<size_t>& rows, const std::vector<Route>& routes,
                        const float* probabilities) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t place = (batch_ + rows[i]) * layers_ + layer;
    for (size_t u = 0; u < used_; ++u) {
      record_.experts[place * used_ + u] = static_cast<uint8_t>(routes[i * used_ + u].expert);
    }
    if (with_probabilities_) {
      std::copy_n(probabilities + i * experts_, experts_, record_.probabilities.data() + place * experts_);
    }
  }
}

void RouteTrace::Forget() {
  record_.sessions.resize(kept_);
  record_.positions.resize(kept_);
  record_.experts.resize(kept_ * layers_ * used_);
  if (with_probabilities_) record_.probabilities.resize(kept_ * layers_ * experts_);
}

RouteRecord RouteTrace::Take() {
  Forget();
  kept_ = 0;
  RouteRecord taken = std::exchange(record_, {});
  taken.with_probabilities = with_probabilities_;
  return taken;
}

}  // namespace pygrok
