"""What one training run is made of, put together by `tasks/train.py`."""
