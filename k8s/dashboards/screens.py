"""The five screens: a question each, and the panels that answer it."""

from k8s.dashboards import batching, callers, capacity, gpu, latency

SCREENS = (latency.SCREEN, batching.SCREEN, capacity.SCREEN, gpu.SCREEN, callers.SCREEN)
