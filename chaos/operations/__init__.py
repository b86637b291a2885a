"""Operations by the part of the machine they change; see :mod:`aiobs.chaos.operation`."""
