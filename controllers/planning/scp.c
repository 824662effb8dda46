static void copy(const Work *k, const Roll *from, Roll *to)
{
  const Setup *s = k->s;
  memcpy(to->moves, from->moves, s->horizon * s->moves * sizeof(double));
  memcpy(to->z, from->z, (s->horizon + 1) * k->lat * sizeof(double));
  memcpy(to->measured, from->measured, s->horizon * s->measured * sizeof(double));
  memcpy(to->margins, from->margins, s->horizon * s->constraints * sizeof(double));
  memcpy(to->key, from->key, (2 * s->ranks + 1) * sizeof(double));
  to->energy = from->energy;
}

static int better(const Work *k)
{
  if (!before(k->s, &k->current, &k->best)) return 0;
  copy(k, &k->current, (Roll *)&k->best);
  return 1;
}

/* Plans one problem within `budget` seconds; the plan is left in `best`, the fallback counts as in `Planner.plan`. */
static void plan_one(Work *k, const Problem *p, double budget, int trust, int64 *converged, int64 *late)
{
  const Setup *s = k->s;
  const int64 M = s->moves, size = s->horizon * M;
  const double began = now();
  double asked = began, longest = 0.0, earlier = 0.0, last = 0.0;
  int64 done = 0;
  FOR(i, size) k->current.moves[i] = p->fallback[i % M];
  inside(k, p, s->horizon, k->current.moves);
  roll(k, p, &k->current);
  copy(k, &k->current, &k->best);
  copy(k, &k->current, &k->start); /* the fallback, until the end */
  for (int64 i = s->ranks; i <= 2 * s->ranks; i++) k->best.key[i] = INFINITY; /* what is at least as safe is better than it */
  memcpy(k->current.moves, p->warm, size * sizeof(double));
  inside(k, p, s->horizon, k->current.moves);
  roll(k, p, &k->current);
  if (!before(s, &k->best, &k->current)) copy(k, &k->current, &k->best);
  if (s->blocks < s->horizon) {
    blocked(k, p, k->current.moves);
    roll(k, p, &k->current);
    better(k);
  }
  *late = *converged = 0;
  last = k->current.energy;
  FOR(it, s->iterations) {
    const double t = now();
    longest = t - asked > longest ? t - asked : longest;
    asked = t;
    if (t + longest >= began + budget) { *late = 1; break; }
    linearise(k, p);
    solve(k, limits(k, p));
    memcpy(k->trial, k->current.moves, size * sizeof(double));
    FOR(j, s->horizon) FOR(i, M) {
      const double step = k->x[s->block[j] * M + i];
      k->current.moves[j * M + i] += step - step == 0.0 ? step : 0.0;
    }
    blocked(k, p, k->current.moves);
    roll(k, p, &k->current);
    better(k);
    earlier = last;
    last = k->current.energy;
    done++;
    double moved = 0.0;
    FOR(i, size) { const double d = fabs(k->current.moves[i] - k->trial[i]); moved = d > moved ? d : moved; }
    if (moved < STILL) { done = 2; earlier = last; break; }
  }
  *converged = done >= 2 && fabs(last - earlier) <= 0.01 * (0.1 + fabs(earlier));
  if (breaks(s, &k->current) && !*late) {
    const double shares[] = {0.8, 0.5, 0.25, 0.1};
    double *origin = k->trial, *goal = k->A; /* the rows are done with */
    memcpy(origin, k->best.moves, size * sizeof(double));
    memcpy(goal, k->current.moves, size * sizeof(double));
    FOR(i, 4) {
      FOR(j, size) k->current.moves[j] = origin[j] + shares[i] * (goal[j] - origin[j]);
      blocked(k, p, k->current.moves);
      roll(k, p, &k->current);
      better(k);
    }
  }
  if (trust && s->ranks && k->best.key[0] > 0) copy(k, &k->start, &k->best);
}

static Problem part(const Setup *s, const Problem *p, int64 b)
{
  const int64 H = s->horizon, M = s->moves;
  Problem one = *p;
  one.z += b * s->latent;
  one.extra += b * H * s->extra;
  one.previous += b * M;
  one.target += b * H * s->targets;
  one.bias += b * H * s->measured;
  if (one.zone) one.zone += b * H * s->zones * 2;
  one.required += b * H * s->constraints;
  if (one.calibrated) one.calibrated += b * H * s->constraints;
  one.weight += b * H * M;
  one.reference += b * H * M;
  one.warm += b * H * M;
  return one;
}

static void hand_over(const Setup *s, const Work *k, const Roll *r, int64 b, double *moves, double *z, double *measured, double *margins)
{
  const int64 H = s->horizon;
  memcpy(moves + b * H * s->moves, r->moves, H * s->moves * sizeof(double));
  FOR(j, H + 1) memcpy(z + (b * (H + 1) + j) * s->latent, r->z + j * k->lat, s->latent * sizeof(double));
  memcpy(measured + b * H * s->measured, r->measured, H * s->measured * sizeof(double));
  memcpy(margins + b * H * s->constraints, r->margins, H * s->constraints * sizeof(double));
}

/* Plans plants first..end-1, each with an equal share of what is left of `budget` seconds; a negative `trust` only plays the
 * warm start. Returns 0, or 1 without memory. */
int64 plan(const Setup *s, const Problem *p, int64 first, int64 end, double budget, int64 trust, double *moves, double *z,
           double *measured, double *margins, int64 *converged, int64 *late)
{
  Work k;
  double *memory = NULL;
  const int64 size = lay_out(&k, s, NULL) + LANES;
  const double until = now() + budget;
  if (posix_memalign((void **)&memory, 64, size * sizeof(double))) return 1;
  memset(memory, 0, size * sizeof(double));
  lay_out(&k, s, memory);
  for (int64 b = first; b < end; b++) {
    const Problem one = part(s, p, b);
    if (trust < 0) {
      memcpy(k.current.moves, one.warm, s->horizon * s->moves * sizeof(double));
      inside(&k, &one, s->horizon, k.current.moves);
      roll(&k, &one, &k.current);
    } else plan_one(&k, &one, (until - now()) / (end - b), trust > 0, converged + b, late + b);
    hand_over(s, &k, trust < 0 ? &k.current : &k.best, b, moves, z, measured, margins);
  }
  free(memory);
  return 0;
}
