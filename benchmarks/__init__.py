"""What Headrace costs and how it compares, measured: `python -m benchmarks` lists the names."""

from inference import share_one_heap

share_one_heap()  # as serving does, before numpy and torch start threads: for what is compared with it in process, too
