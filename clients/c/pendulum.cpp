// A damped pendulum that a motor turns, in C++11.
// Its angle follows angle'' = -g/l sin(angle) - c angle' + torque.
#include "physgym.h"

class Pendulum {
  public:
    Pendulum(double gravity, double length) : pull(gravity / length) {}
    void begin(double start, double damping) { angle = start, speed = 0, friction = damping; }

    void advance(double torque) { // midpoint rule, ten solver steps
        for (int i = 0; i < 10; i++) {
            double middle = angle + 0.5 * STEP * speed, rate = speed + 0.5 * STEP * acceleration(angle, speed, torque);
            angle += STEP * rate;
            speed += STEP * acceleration(middle, rate, torque);
        }
    }

    double angle = 0, speed = 0;
  private:
    static constexpr double STEP = 0.005;
    double acceleration(double at, double rate, double u) const { return u - pull * std::sin(at) - friction * rate; }
    double pull, friction = 0;
};

static const double INF = INFINITY;
static const pg_field seen[] = {{nullptr, PG_FLOAT32, {2}, -INF, INF, nullptr, PG_ADDITIONAL, nullptr, nullptr, 0}};
static const pg_field torque[] = {{nullptr, PG_FLOAT32, {0}, -3, 3, nullptr, PG_ADDITIONAL, nullptr, nullptr, 0}};
static const pg_field drawn[] = {{"angle", PG_FLOAT64, {0}, -3, 3, nullptr, PG_ADDITIONAL, "rad", nullptr, 0},
                                 {"damping", PG_FLOAT64, {0}, 0, 1, nullptr, PG_ADDITIONAL, "1/s", nullptr, 0}};
static const pg_field sample[] = {
    {"state", PG_FLOAT32, {2}, -INF, INF, nullptr, PG_INPUT, "rad, rad/s", nullptr, 0},
    {"torque", PG_FLOAT32, {0}, -3, 3, nullptr, PG_INPUT, "1/s2", nullptr, 0},
    {"next_state", PG_FLOAT32, {2}, -INF, INF, nullptr, PG_TARGET, "rad, rad/s", "state", 0}};
static const pg_setting settings[] = {{"gravity", 9.81, 0, 100}, {"length", 1, 0.01, 100}};

int main(int argc, char **argv) {
    pg_simulation pendulum = pg_declared("example/Pendulum-v0");
    pendulum.observation = PG_FIELDS(seen);
    pendulum.action = PG_FIELDS(torque);
    pendulum.parameters = PG_FIELDS(drawn);
    pendulum.sample = PG_FIELDS(sample);
    pendulum.settings = settings, pendulum.setting_count = 2;
    pendulum.max_episode_steps = 50, pendulum.time_step = 0.05;
    pendulum.make = [](const double *with, char *) -> void * { return new Pendulum(with[0], with[1]); };
    pendulum.close = [](void *env) { delete static_cast<Pendulum *>(env); };
    pendulum.reset = [](void *env, const double *with, pg_random *, pg_result *result) -> int {
        auto &p = *static_cast<Pendulum *>(env);
        p.begin(with[0], with[1]);
        result->observation[0] = p.angle, result->observation[1] = p.speed;
        return PG_OK;
    };
    pendulum.step = [](void *env, const double *action, pg_random *, pg_result *result) -> int {
        auto &p = *static_cast<Pendulum *>(env);
        result->sample[0] = p.angle, result->sample[1] = p.speed, result->sample[2] = action[0];
        p.advance(action[0]);
        result->observation[0] = result->sample[3] = p.angle, result->observation[1] = result->sample[4] = p.speed;
        return PG_OK;
    };
    return pg_main(argc, argv, &pendulum);
}
