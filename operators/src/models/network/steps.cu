// A step of each optimiser, as `Rule::update` has it: a thread for each parameter. Compiled when a GPU is first used, and without fused
// multiply-adds, so that a step has the bits that the processor gives it.
//
// `state` holds the parameters, and then the moments, one kind after the other; each gradient is multiplied by `factor`.

#define STEP(name, ...)                                                                                                    \
    extern "C" __global__ void name(float *state, const float *gradients, unsigned long long len, float factor, __VA_ARGS__)
#define AT                                                                                                                 \
    unsigned long long at = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;                                     \
    if (at >= len) return;                                                                                                 \
    float *value = state + at, gradient = gradients[at] * factor

STEP(sgd, float rate, float decay) {
    AT;
    *value -= rate * (gradient + decay * *value);
}

STEP(momentum, float rate, float decay, float rest) {
    AT;
    float *kept = value + len;
    *kept = rest * *kept + (gradient + decay * *value);
    *value -= rate * *kept;
}

STEP(adagrad, float rate, float decay, float epsilon) {
    AT;
    float *kept = value + len;
    gradient += decay * *value;
    *kept += gradient * gradient;
    *value -= rate * gradient / (sqrtf(*kept) + epsilon);
}

STEP(adamw, float shrunk, float length, float scale, float beta1, float rest1, float beta2, float rest2, float epsilon) {
    AT;
    float *first = value + len, *second = first + len;
    *first = beta1 * *first + rest1 * gradient;
    *second = beta2 * *second + rest2 * (gradient * gradient);
    *value = shrunk * *value - length * *first / (sqrtf(*second) * scale + epsilon);
}
