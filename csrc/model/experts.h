// The mixture of experts: router, grouping of tokens by expert, the gated feed-forward of each.
#pragma once

#include <functional>
#include <vector>

#include "model/compute.h"

namespace pygrok {

// Experts are computed together while their routes are this few, so that decoding has long parallel regions;
// with more, one expert at a time keeps the buffers small.
inline constexpr size_t kGroupRoutes = 64;

// One token's use of one expert.
struct Route {
  size_t expert;
  size_t row;
  float weight;
};

// The `used` most probable experts of each row, given router probabilities [rows][experts]; on a tie the
// lower index. The weights stay what the softmax over ALL experts gave: Grok-1 does not renormalize. Ordered
// by row, then by falling probability.
std::vector<Route> RouteTokens(const float* probabilities, size_t rows, size_t experts, size_t used);

class ExpertPaging;
class InputObserver;
class RouteTrace;

// What goes with a batch through the layers.
struct Attendants {
  const std::function<void()>* poll = nullptr;  // may throw, which ends the forward
  InputObserver* observer = nullptr;
  RouteTrace* trace = nullptr;
};

class Experts {
 public:
  Experts(const Config& config, Compute& compute, ExpertPaging& paging);

  // out [n][embedding] = sum over the routed experts e of p_e * down_e(gelu(gate_e x) * up_e x), for x
  // [n][embedding]: `rows` [n] of the batch. An observer sees the router's input and each expert's, as those
  // of layer `index`.
  void Forward(size_t index, const LayerWeights& layer, const float* x, const std::vector<size_t>& rows,
               float* out, const Attendants& with);

  // The experts that the layer's router would choose for x [n][embedding], the most used first.
  std::vector<size_t> Foresee(const LayerWeights& layer, const float* x, size_t n);

 private:
  // The router's softmax [n][experts]; x becomes input_.
  const float* Probabilities(const LayerWeights& layer, const float* x, size_t n);
  // Routes [begin, end) of whole experts through their matrices at once; adds to out.
  void RunGroup(const LayerWeights& layer, const float* x, const std::vector<Route>& routes, size_t begin,
                size_t end, float* out, InputObserver* observer, size_t index);

  const Config& config_;
  Compute& compute_;
  ExpertPaging& paging_;
  Activations input_;
  Activations hidden_;
  Buffer<float> probabilities_;
  FormBuffers gathered_;  // a group's activation rows in route order
  Buffer<float> gate_, up_, down_;
};

}  // namespace pygrok
