"""What the hardware says: GPUs of any vendor behind one protocol (:mod:`aiobs.device.base`)."""
