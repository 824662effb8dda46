/* How a kernel steps a block of B plants. `compiled.py` writes the sizes (NX, NU, ...), and before this text the functions of
 * one simulator: prepare, flow, jump, envelope, read and watch. Nothing here is about any plant. */
typedef double States[NX][B];
typedef const double U_[NU][B], D_[ND][B], P_[NP][B], V_[NV][B];

/* Members whose new state Y is inside the envelope take it; the others end, or have ended, where they were. */
static void settle(States X, States Y, U_ U, D_ D, P_ P, V_ V, const double *moved, double *over)
{
  double G[NG][B], why[B], sum[B], takes[B];
  envelope(Y, U, D, P, V, G);
  for (int l = 0; l < B; l++) why[l] = sum[l] = 0.0;
  for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) sum[l] += Y[i][l] - Y[i][l];  /* not 0 if one is not finite */
  for (int i = ENDS - 1; i >= 0; i--) for (int l = 0; l < B; l++) why[l] = G[i][l] > 0.0 ? why[l] : i + 1.0;
  for (int l = 0; l < B; l++) {
    why[l] = sum[l] == 0.0 ? why[l] : ENDS + 1.0;
    over[l] = over[l] == 0.0 ? moved[l] * why[l] : over[l];
    takes[l] = over[l] == 0.0 ? moved[l] : 0.0;
  }
  for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) X[i][l] = takes[l] != 0.0 ? Y[i][l] : X[i][l];
}

/* The highest values so far of what is watched; a member stops once all of them are at their ceilings. */
static void follow(States X, U_ U, D_ D, P_ P, V_ V, const double *ceiling, double *over, double top[NW][B])
{
  double G[NW][B], left[B];
  watch(X, U, D, P, V, G);
  for (int l = 0; l < B; l++) left[l] = 0.0;
  for (int w = 0; w < NW; w++) for (int l = 0; l < B; l++) {
    top[w][l] = G[w][l] > top[w][l] ? G[w][l] : top[w][l];
    left[l] += top[w][l] < ceiling[w] ? 1.0 : 0.0;
  }
  for (int l = 0; l < B; l++) over[l] = left[l] > 0.0 ? over[l] : ENDS + 2.0;
}

static void fixed(States X, U_ U, D_ D, P_ P, V_ V, double span, int64 steps, double *over, const double *ceiling,
                  double top[NW][B])
{
  const double h = span / steps;
  double K[NX][B], S[NX][B], Y[NX][B], all[B];
  for (int l = 0; l < B; l++) all[l] = 1.0;
  for (int64 step = 0; step < steps; step++) {
    flow(X, U, D, P, V, K);
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) {
      S[i][l] = K[i][l]; Y[i][l] = X[i][l] + 0.5 * h * K[i][l]; }
    flow(Y, U, D, P, V, K);
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) {
      S[i][l] += 2.0 * K[i][l]; Y[i][l] = X[i][l] + 0.5 * h * K[i][l]; }
    flow(Y, U, D, P, V, K);
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) {
      S[i][l] += 2.0 * K[i][l]; Y[i][l] = X[i][l] + h * K[i][l]; }
    flow(Y, U, D, P, V, K);
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) Y[i][l] = X[i][l] + h / 6.0 * (S[i][l] + K[i][l]);
    settle(X, Y, U, D, P, V, all, over);
    if (WATCHES) follow(X, U, D, P, V, ceiling, over, top);
  }
}

/* Dormand & Prince (1980), table 2. Every member has a step of its own, so none feels its neighbours. */
static const double A[6][6] = {
  {1.0 / 5}, {3.0 / 40, 9.0 / 40}, {44.0 / 45, -56.0 / 15, 32.0 / 9},
  {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
  {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
  {35.0 / 384, 0.0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}};
static const double E[7] = {
  71.0 / 57600, 0.0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40};

static void adaptive(States X, U_ U, D_ D, P_ P, V_ V, double span, double *over, const double *ceiling,
                     double top[NW][B])
{
  double K[7][NX][B], Y[NX][B], t[B], h[B], step[B], error[B], moved[B];
  for (int l = 0; l < B; l++) { t[l] = 0.0; h[l] = span; }
  flow(X, U, D, P, V, K[0]);
  for (;;) {
    double left = 0.0;
    for (int l = 0; l < B; l++) {
      const double rest = span - t[l];
      step[l] = over[l] == 0.0 && rest > 1e-12 * span ? (h[l] < rest ? h[l] : rest) : 0.0;
      left += step[l];
    }
    if (left == 0.0) return;
    for (int s = 0; s < 6; s++) {
      for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) {
        double sum = 0.0;
        for (int j = 0; j <= s; j++) sum += A[s][j] * K[j][i][l];
        Y[i][l] = X[i][l] + step[l] * sum;
      }
      flow(Y, U, D, P, V, K[s + 1]);
    }
    for (int l = 0; l < B; l++) error[l] = 0.0;
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) {
      double sum = 0.0;
      for (int j = 0; j < 7; j++) sum += E[j] * K[j][i][l];
      const double size = fabs(X[i][l]) > fabs(Y[i][l]) ? fabs(X[i][l]) : fabs(Y[i][l]);
      const double ratio = fabs(step[l] * sum) / (ATOL + RTOL * size);
      error[l] = ratio <= error[l] ? error[l] : ratio;  /* takes a NaN too */
    }
    for (int l = 0; l < B; l++) {
      moved[l] = step[l] > 0.0 && error[l] <= 1.0 ? 1.0 : 0.0;
      t[l] += moved[l] * step[l];
      const double factor = 0.9 * pow(error[l] + 1e-12, -0.2);
      h[l] = step[l] > 0.0 ? step[l] * (factor > 5.0 ? 5.0 : factor > 0.2 ? factor : 0.2) : h[l];
      over[l] = over[l] == 0.0 && step[l] > 0.0 && h[l] < 1e-12 * span ? ENDS + 1.0 : over[l];
    }
    settle(X, Y, U, D, P, V, moved, over);
    for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++)
      K[0][i][l] = moved[l] != 0.0 ? K[6][i][l] : K[0][i][l];
    if (WATCHES) follow(X, U, D, P, V, ceiling, over, top);
  }
}

void outputs(int64 n, double *y, const double *x, const double *u, const double *d, const double *p)
{
  for (int64 start = 0; start < n; start += B) {
    const int64 width = n - start < B ? n - start : B;
    double X[NX][B], U[NU][B], D[ND][B], P[NP][B], V[NV][B], Y[NY][B];
    for (int64 l = 0; l < B; l++) {
      const int64 m = start + (l < width ? l : width - 1);
      for (int i = 0; i < NX; i++) X[i][l] = x[m * NX + i];
      for (int i = 0; i < NU; i++) U[i][l] = u[m * NU + i];
      for (int i = 0; i < ND; i++) D[i][l] = d[m * ND + i];
      for (int i = 0; i < NP; i++) P[i][l] = p[m * NP + i];
    }
    prepare(U, D, P, V);
    read(X, U, D, P, V, Y);
    for (int64 l = 0; l < width; l++) for (int i = 0; i < NY; i++) y[(start + l) * NY + i] = Y[i][l];
  }
}

void advance(int64 n, int64 ticks, int64 steps, double span, double *x, const double *u, const double *d, const double *p,
             int64 *ended, const double *ceiling, double *top)
{
  for (int64 start = 0; start < n; start += B) {
    const int64 width = n - start < B ? n - start : B;
    double X[NX][B], Y[NX][B], U[NU][B], D[ND][B], P[NP][B], V[NV][B], T[NW][B], over[B];
    for (int64 l = 0; l < B; l++) {  /* a short block is filled up with its last member */
      const int64 m = start + (l < width ? l : width - 1);
      for (int i = 0; i < NX; i++) X[i][l] = x[m * NX + i];
      for (int i = 0; i < NU; i++) U[i][l] = u[m * NU + i];
      for (int i = 0; i < ND; i++) D[i][l] = d[m * ND + i];
      for (int i = 0; i < NP; i++) P[i][l] = p[m * NP + i];
      over[l] = (double)ended[m];
      for (int w = 0; w < NW; w++) T[w][l] = WATCHES ? top[m * NW + w] : 0.0;
    }
    prepare(U, D, P, V);
    for (int64 tick = 0; tick < ticks; tick++) {
      if (JUMPS) {
        jump(X, U, D, P, V, Y);
        for (int i = 0; i < NX; i++) for (int l = 0; l < B; l++) X[i][l] = over[l] == 0.0 ? Y[i][l] : X[i][l];
      }
      if (ADAPTS) adaptive(X, U, D, P, V, span, over, ceiling, T);
      else fixed(X, U, D, P, V, span, steps, over, ceiling, T);
    }
    for (int64 l = 0; l < width; l++) {
      for (int i = 0; i < NX; i++) x[(start + l) * NX + i] = X[i][l];
      ended[start + l] = (int64)over[l];
      if (WATCHES) for (int w = 0; w < NW; w++) top[(start + l) * NW + w] = T[w][l];
    }
  }
}
