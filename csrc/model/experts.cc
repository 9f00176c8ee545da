#include "model/experts.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "model/expert_paging.h"
#include "model/observer.h"
#include "model/route_trace.h"

namespace pygrok {
namespace {

// A run of routes to one expert.
struct ExpertRun {
  const ExpertWeights* weights;
  size_t expert;
  size_t first;  // route, counted from the group's first
  size_t count;
};

// Routes [begin, end) of experts whose matrices are multiplied together; routes are ordered by expert.
std::vector<std::pair<size_t, size_t>> GroupsOf(const std::vector<Route>& routes) {
  std::vector<std::pair<size_t, size_t>> groups;
  for (size_t begin = 0; begin < routes.size();) {
    size_t end = begin;
    while (end < routes.size()) {
      size_t next = end;
      while (next < routes.size() && routes[next].expert == routes[end].expert) ++next;
      if (end > begin && next - begin > kGroupRoutes) break;
      end = next;
    }
    groups.emplace_back(begin, end);
    begin = end;
  }
  return groups;
}

// A layer's experts are on their way into memory, or there, while this lives.
class Planned {
 public:
  Planned(ExpertPaging& paging, size_t index, const LayerWeights& layer, const std::vector<Route>& routes,
          size_t rows, const std::vector<std::pair<size_t, size_t>>& groups,
          const std::function<void()>* poll)
      : paging_(paging) {
    if (paging_.streamed()) paging_.Plan(index, layer, routes, rows, groups, poll);
  }
  ~Planned() {
    if (paging_.streamed()) paging_.Release();
  }
  Planned(const Planned&) = delete;
  Planned& operator=(const Planned&) = delete;

 private:
  ExpertPaging& paging_;
};

}  // namespace

std::vector<Route> RouteTokens(const float* probabilities, size_t rows, size_t experts, size_t used) {
  std::vector<Route> routes;
  routes.reserve(rows * used);
  std::vector<size_t> order(experts);
  for (size_t row = 0; row < rows; ++row) {
    const float* p = probabilities + row * experts;
    for (size_t e = 0; e < experts; ++e) order[e] = e;
    // NaN compares as smallest, so that the order stays strict whatever a broken file makes of the router.
    auto key = [p](size_t e) { return p[e] == p[e] ? p[e] : -1.0f; };
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(used), order.end(),
                      [&](size_t a, size_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
    for (size_t i = 0; i < used; ++i) routes.push_back({order[i], row, p[order[i]]});
  }
  return routes;
}

Experts::Experts(const Config& config, Compute& compute, ExpertPaging& paging)
    : config_(config),
      compute_(compute),
      paging_(paging),
      input_(compute.kernels(), compute.pool(), compute.ledger()),
      hidden_(compute.kernels(), compute.pool(), compute.ledger()),
      probabilities_(compute.ledger()),
      gathered_(compute.ledger()),
      gate_(compute.ledger()),
      up_(compute.ledger()),
      down_(compute.ledger()) {}

const float* Experts::Probabilities(const LayerWeights& layer, const float* x, size_t n) {
  input_.Set(x, n, config_.embedding);
  float* probabilities = probabilities_.Get(n * config_.experts);
  compute_.Matmul({{&layer.router, input_.In(compute_.FormOf(layer.router, n)), n, probabilities}});
  for (size_t t = 0; t < n; ++t)
    compute_.kernels().softmax(probabilities + t * config_.experts, config_.experts);
  return probabilities;
}

std::vector<size_t> Experts::Foresee(const LayerWeights& layer, const float* x, size_t n) {
  const float* probabilities = Probabilities(layer, x, n);
  std::vector<float> sums(config_.experts);
  for (const Route& route : RouteTokens(probabilities, n, config_.experts, config_.experts_used)) {
    sums[route.expert] += std::max(route.weight, std::numeric_limits<float>::min());
  }
  std::vector<size_t> order;
  for (size_t e = 0; e < config_.experts; ++e) {
    if (sums[e] > 0) order.push_back(e);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sums[a] > sums[b]; });
  return order;
}

void Experts::Forward(size_t index, const LayerWeights& layer, const float* x,
                      const std::vector<size_t>& rows, float* out, const Attendants& with) {
  const size_t n = rows.size();
  if (with.observer != nullptr) {
    with.observer->Observe(
        {.input = MatrixInput::kRouter, .layer = index, .expert = 0, .n = n, .k = config_.embedding, .x = x},
        compute_.pool());
  }
  const float* probabilities = Probabilities(layer, x, n);
  std::vector<Route> routes = RouteTokens(probabilities, n, config_.experts, config_.experts_used);
  paging_.Adapt(index, routes, probabilities, n);
  paging_.CountRoutes(routes.size());
  if (with.trace != nullptr) with.trace->Record(index, rows, routes, probabilities);
  std::sort(routes.begin(), routes.end(), [](const Route& a, const Route& b) {
    return std::tie(a.expert, a.row) < std::tie(b.expert, b.row);
  });
  const std::vector<std::pair<size_t, size_t>> groups = GroupsOf(routes);

  const Planned planned(paging_, index, layer, routes, n, groups, with.poll);
  std::memset(out, 0, n * config_.embedding * sizeof(float));
  for (const auto& [begin, end] : groups) RunGroup(layer, x, routes, begin, end, out, with.observer, index);
}

void Experts::RunGroup(const LayerWeights& layer, const float* x, const std::vector<Route>& routes,
                       size_t begin, size_t end, float* out, InputObserver* observer, size_t index) {
  const KernelTable& kernels = compute_.kernels();
  const size_t count = end - begin;
  const size_t width = config_.expert_width;
  const size_t embedding = config_.embedding;

  std::vector<ExpertRun> runs;
  for (size_t i = begin; i < end; ++i) {
    if (i == begin || routes[i].expert != routes[i - 1].expert) {
      runs.push_back({&layer.experts[routes[i].expert], routes[i].expert, i - begin, 0});
    }
    ++runs.back().count;
  }
  auto report = [&](MatrixInput input, const float* rows, size_t k, bool scattered) {
    if (observer == nullptr) return;
    for (const ExpertRun& run : runs) {
      observer->Observe({.input = input,
                         .layer = index,
                         .expert = run.expert,
                         .n = run.count,
                         .k = k,
                         .x = scattered ? rows : rows + run.first * k,
                         .routes = routes.data() + begin + run.first,
                         .scattered = scattered},
                        compute_.pool());
    }
  };
  report(MatrixInput::kExpert, x, embedding, true);

  // Activations in route order, in each form that a matrix of the group wants.
  std::vector<size_t> route_rows;
  for (size_t i = begin; i < end; ++i) route_rows.push_back(routes[i].row);
  Vectors gathered[kForms] = {};
  auto of_run = [&](Form form, const ExpertRun& run) {
    Vectors& vectors = gathered[static_cast<size_t>(form)];
    if (vectors.data == nullptr) {
      std::byte* const to = gathered_[form].Get(count * FormRowBytes(form, embedding));
      vectors = input_.Gather(form, route_rows, to);
    }
    return Vectors{vectors.data, vectors.total, run.first};
  };

  float* gate = gate_.Get(count * width);
  float* up = up_.Get(count * width);
  std::vector<MatmulJob> jobs;
  for (const ExpertRun& run : runs) {
    for (const auto& [matrix, result] : {std::pair{&run.weights->gate, gate}, {&run.weights->up, up}}) {
      jobs.push_back(
          {matrix, of_run(compute_.FormOf(*matrix, run.count), run), run.count, result + run.first * width});
    }
  }
  compute_.Matmul(jobs);
  compute_.ForRows(count, 8 * width, [&](size_t i) {
    kernels.gelu_mul(gate + i * width, up + i * width, width, gate + i * width);
  });

  report(MatrixInput::kExpertHidden, gate, width, false);

  hidden_.Set(gate, count, width);
  float* down = down_.Get(count * embedding);
  jobs.clear();
  for (const ExpertRun& run : runs) {
    const Matrix& m = run.weights->down;
    const Vectors hidden = hidden_.In(compute_.FormOf(m, run.count));
    jobs.push_back({&m, {hidden.data, hidden.total, run.first}, run.count, down + run.first * embedding});
  }
  compute_.Matmul(jobs);

  // A row's experts are added in rising order, however the batch was grouped.
  for (size_t i = 0; i < count; ++i) {
    const Route& route = routes[begin + i];
    kernels.axpy(route.weight, down + i * embedding, embedding, out + route.row * embedding);
  }
}

}  // namespace pygrok
