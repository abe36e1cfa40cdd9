/* A mass on a damped spring, in C.
 *
 * The force is constant during a step: m x'' + c x' + k x = F. It is the twin of
 * physgym/Spring-v0: for the same seed it gives the same episodes. */
#include "physgym.h"

#define TIME_STEP 0.1 /* s */
#define FORCE 5.0     /* N, at most */

enum { STIFFNESS, MASS, FRICTION, POSITION, VELOCITY, PARAMETERS };

typedef struct {
    double state[2];     /* position in m, velocity in m/s */
    double constants[3]; /* stiffness in N/m, mass in kg, friction in N s/m */
    double propagator[2][3];
} spring;

static const double seen[] = {-INFINITY, INFINITY, -INFINITY, INFINITY, 5.0, 20.0, 0.5, 2.0, 0.1, 2.0};

static const pg_field observation[] = {
    {NULL, PG_FLOAT32, {5}, 0, 0, seen, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field action[] = {
    {NULL, PG_FLOAT32, {1}, -FORCE, FORCE, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field parameters[] = {
    {"stiffness", PG_FLOAT64, {0}, 5.0, 20.0, NULL, PG_ADDITIONAL, "N/m", NULL, 0},
    {"mass", PG_FLOAT64, {0}, 0.5, 2.0, NULL, PG_ADDITIONAL, "kg", NULL, 0},
    {"friction", PG_FLOAT64, {0}, 0.1, 2.0, NULL, PG_ADDITIONAL, "N s/m", NULL, 0},
    {"position", PG_FLOAT64, {0}, -1.0, 1.0, NULL, PG_ADDITIONAL, "m", NULL, 0},
    {"velocity", PG_FLOAT64, {0}, -2.0, 2.0, NULL, PG_ADDITIONAL, "m/s", NULL, 0},
};
static const pg_field sample[] = {
    {"force", PG_FLOAT32, {1}, -FORCE, FORCE, NULL, PG_INPUT, "N", NULL, 0},
    {"next_state", PG_FLOAT32, {2}, -INFINITY, INFINITY, NULL, PG_TARGET, "m, m/s", "state", 0},
    {"parameters", PG_FLOAT32, {3}, 0, 0, seen + 4, PG_INPUT, "N/m, kg, N s/m", NULL, 0},
    {"state", PG_FLOAT32, {2}, -INFINITY, INFINITY, NULL, PG_INPUT, "m, m/s", NULL, 0},
};

/* Multiply 3x3 matrices. */
static void multiply(double a[3][3], double b[3][3], double product[3][3]) {
    double sum[3][3];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) sum[i][j] = a[i][0] * b[0][j] + a[i][1] * b[1][j] + a[i][2] * b[2][j];
    memcpy(product, sum, sizeof sum);
}

/* Set the exact map of (position, velocity, force) to (position, velocity) over a step: the upper rows of the
 * exponential of the system augmented by the force, by its series after scaling and before squaring. */
static void propagate(const double constants[3], double propagator[2][3]) {
    double k = constants[STIFFNESS], m = constants[MASS], c = constants[FRICTION];
    double system[3][3] = {{0, 1, 0}, {-k / m, -c / m, 1 / m}, {0, 0, 0}};
    double sum[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, term[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    double size = TIME_STEP * (1 + (k + c + 1) / m);
    int halvings = 0;
    for (; size > 0.5 && halvings < 60; size /= 2) halvings++;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) system[i][j] *= ldexp(TIME_STEP, -halvings);
    for (int power = 1; power < 20; power++) {
        multiply(term, system, term);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) sum[i][j] += term[i][j] /= power;
    }
    while (halvings-- > 0) multiply(sum, sum, sum);
    memcpy(propagator, sum, sizeof(double[2][3]));
}

static void *make(const double *settings, char text[PG_TEXT]) {
    (void)settings;
    (void)text;
    return calloc(1, sizeof(spring));
}

static void observe(const spring *s, double *to) {
    memcpy(to, s->state, sizeof s->state);
    memcpy(to + 2, s->constants, sizeof s->constants);
}

static int reset(void *env, const double *given, pg_random *random, pg_result *result) {
    spring *s = (spring *)env;
    (void)random;
    memcpy(s->constants, given, sizeof s->constants);
    s->state[0] = given[POSITION];
    s->state[1] = given[VELOCITY];
    propagate(s->constants, s->propagator);
    observe(s, result->observation);
    return PG_OK;
}

static int step(void *env, const double *force, pg_random *random, pg_result *result) {
    spring *s = (spring *)env;
    double next[2];
    (void)random;
    for (int i = 0; i < 2; i++)
        next[i] =
            s->propagator[i][0] * s->state[0] + s->propagator[i][1] * s->state[1] + s->propagator[i][2] * force[0];
    if (!isfinite(next[0]) || !isfinite(next[1]))
        return pg_say(result, PG_REJECTED, "the state is not finite after a force of %g N", force[0]);
    result->sample[0] = force[0];
    memcpy(result->sample + 1, next, sizeof next);
    memcpy(result->sample + 3, s->constants, sizeof s->constants);
    memcpy(result->sample + 6, s->state, sizeof next);
    memcpy(s->state, next, sizeof next);
    observe(s, result->observation);
    result->reward = -next[0] * next[0];
    return PG_OK;
}

static void get_state(void *env, double *state) { memcpy(state, ((spring *)env)->state, 2 * sizeof *state); }
static void set_state(void *env, const double *state) { memcpy(((spring *)env)->state, state, 2 * sizeof *state); }

int main(int argc, char **argv) {
    pg_simulation simulation = pg_declared("physgym/Spring-v0");
    simulation.observation = PG_FIELDS(observation);
    simulation.action = PG_FIELDS(action);
    simulation.sample = PG_FIELDS(sample);
    simulation.parameters = PG_FIELDS(parameters);
    simulation.max_episode_steps = 100;
    simulation.time_step = TIME_STEP;
    simulation.make = make;
    simulation.reset = reset;
    simulation.step = step;
    simulation.close = free;
    simulation.state_size = 2;
    simulation.get_state = get_state;
    simulation.set_state = set_state;
    return pg_main(argc, argv, &simulation);
}
