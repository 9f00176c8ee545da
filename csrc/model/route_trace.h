// Which experts each token was routed to, layer by layer, as a recording.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/experts.h"

namespace pygrok {

inline constexpr uint8_t kNotRouted = 255;  // the token went no further than that layer's keys and values

// Tokens in the order in which they were computed.
struct RouteRecord {
  std::vector<int32_t> sessions;   // [n] ordinals, in the order in which sessions were made
  std::vector<int32_t> positions;  // [n]
  std::vector<uint8_t> experts;    // [n][layers][used], the most probable first; kNotRouted
  bool with_probabilities = false;
  std::vector<float> probabilities;  // [n][layers][experts] of the softmax over all experts, or empty
};

class RouteTrace {
 public:
  // Throws ModelError for more experts than a byte can name.
  RouteTrace(const Config& config, bool probabilities);

  // A batch begins; until Keep or the next batch its rows may still be forgotten.
  void Begin(const std::vector<int32_t>& sessions, const std::vector<int32_t>& positions);
  // routes: `used` for each of `rows` (indices into the batch), by row, then by falling probability;
  // probabilities [rows][experts].
  void Record(size_t layer, const std::vector<size_t>& rows, const std::vector<Route>& routes,
              const float* probabilities);
  // The call has succeeded: its rows belong to the record.
  void Keep() { kept_ = record_.positions.size(); }
  // Forgets the rows since Keep.
  void Forget();
  // All rows kept so far; the recording goes on empty.
  RouteRecord Take();

 private:
  const size_t layers_;
  const size_t used_;
  const size_t experts_;
  const bool with_probabilities_;
  RouteRecord record_;
  size_t kept_ = 0;   // rows
  size_t batch_ = 0;  // row where the present batch begins
};

}  // namespace pygrok
