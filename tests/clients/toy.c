/* A simulation that does whatever one may do, the twin of `tests.clients.toy:Toy`. */
#include "../../clients/c/physgym.h"

typedef struct {
    double place[2], gain;
    double scale;
    int trouble; /* 1: rejects, 2: rejects all, 3: gives NaN, 4: fails, 5: terminates */
    int count;
} toy;

static const pg_field observation[] = {
    {"count", PG_DISCRETE, {0}, 0, 1000, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"place", PG_FLOAT64, {2}, -1e6, 1e6, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"quick", PG_BOOL, {1}, 0, 1, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field action[] = {
    {"gear", PG_DISCRETE, {0}, 1, 4, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"push", PG_FLOAT32, {2}, -1, 1, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field parameters[] = {
    {"gain", PG_FLOAT64, {0}, 0.5, 2, NULL, PG_ADDITIONAL, "1/s", NULL, 0},
    {"start", PG_INT32, {2}, -3, 3, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_field sample[] = {
    {"gear", PG_INT32, {0}, 0, 9, NULL, PG_INPUT, NULL, NULL, 0},
    {"noise", PG_FLOAT64, {2, 1}, -INFINITY, INFINITY, NULL, PG_TARGET, "m", NULL, 0},
    {"picture", PG_UINT8, {2, 2, 1}, 0, 255, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"step", PG_INT64, {0}, 0, 1e9, NULL, PG_ADDITIONAL, NULL, NULL, 0},
    {"truncated", PG_BOOL, {0}, 0, 1, NULL, PG_ADDITIONAL, NULL, NULL, 0},
};
static const pg_setting settings[] = {{"scale", 1, 0, 10}, {"trouble", 0, 0, 9}};

static void *make(const double *given, char text[PG_TEXT]) {
    toy *t = (toy *)calloc(1, sizeof *t);
    if (t == NULL || given[1] == 9) {
        free(t);
        snprintf(text, PG_TEXT, "no such trouble");
        return NULL;
    }
    t->scale = given[0];
    t->trouble = (int)given[1];
    return t;
}

static void observe(const toy *t, pg_result *result) {
    result->observation[0] = t->count;
    result->observation[1] = t->place[0];
    result->observation[2] = t->place[1];
    result->observation[3] = fabs(t->place[0]) > 2;
}

static int reset(void *env, const double *given, pg_random *random, pg_result *result) {
    toy *t = (toy *)env;
    t->gain = given[0];
    t->place[0] = given[1] + pg_uniform(random, -0.5, 0.5);
    t->place[1] = given[2];
    t->count = 0;
    observe(t, result);
    return PG_OK;
}

static int step(void *env, const double *given, pg_random *random, pg_result *result) {
    toy *t = (toy *)env;
    double noise = pg_unit(random);
    t->count++;
    for (int i = 0; i < 2; i++) t->place[i] += t->scale * t->gain * given[1 + i];
    observe(t, result);
    result->reward = t->place[0];
    result->sample[0] = given[0];
    result->sample[1] = t->trouble == 3 && t->count == 3 ? NAN : noise;
    result->sample[2] = t->place[1];
    for (int i = 0; i < 4; i++) result->sample[3 + i] = (double)pg_integer(random, 0, 255);
    result->sample[7] = t->count;
    result->sample[8] = 0;
    if (t->trouble == 4 && t->count == 2) return pg_say(result, PG_FAILED, "trouble with gear %d", (int)given[0]);
    result->terminated = t->trouble == 5 && t->count == 4;
    if (t->trouble == 2 || (t->trouble == 1 && given[0] > 3)) {
        result->rejected_sample = 1;
        return pg_say(result, PG_REJECTED, "gear %d is rejected", (int)given[0]);
    }
    return PG_OK;
}

int main(int argc, char **argv) {
    pg_simulation simulation = pg_declared("clients/Toy-v0");
    simulation.observation = PG_FIELDS(observation);
    simulation.action = PG_FIELDS(action);
    simulation.sample = PG_FIELDS(sample);
    simulation.parameters = PG_FIELDS(parameters);
    simulation.settings = settings;
    simulation.setting_count = 2;
    simulation.max_episode_steps = 7;
    simulation.make = make;
    simulation.reset = reset;
    simulation.step = step;
    simulation.close = free;
    return pg_main(argc, argv, &simulation);
}
