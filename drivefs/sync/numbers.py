"""A set of op numbers, kept as ranges: what is removed by one program has numbers that follow each other. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Numbers:
    """Multiples of a stride, in which op numbers are given out; ranges have both ends. Others cannot be in it."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = (), *, stride: int = 1) -> None:
        self._stride = stride
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._count = 0
        for first, last in ranges:
            self._firsts.append(first // stride)
            self._lasts.append(last // stride)
            self._count += (last - first) // stride + 1

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return not number % self._stride and self._has(number // self._stride)

    def _has(self, number: int) -> bool:
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """All ranges, ascending."""
        for first, last in zip(list(self._firsts), list(self._lasts), strict=True):
            yield first * self._stride, last * self._stride

    def latest(self, limit: int) -> list[int]:
        """The highest numbers, highest first."""
        found: list[int] = []
        for first, last in zip(reversed(self._firsts), reversed(self._lasts), strict=True):
            found += range(last, max(first, last - (limit - len(found)) + 1) - 1, -1)
            if len(found) >= limit:
                break
        return [number * self._stride for number in found]

    def add(self, number: int) -> None:
        """Put a number in, if it is not there and can be."""
        number, rest = divmod(number, self._stride)
        if rest or self._has(number):
            return
        index = bisect_right(self._firsts, number)
        continues = index > 0 and self._lasts[index - 1] == number - 1
        precedes = index < len(self._firsts) and self._firsts[index] == number + 1
        if continues and precedes:
            self._lasts[index - 1] = self._lasts[index]
            del self._firsts[index], self._lasts[index]
        elif continues:
            self._lasts[index - 1] = number
        elif precedes:
            self._firsts[index] = number
        else:
            self._firsts.insert(index, number)
            self._lasts.insert(index, number)
        self._count += 1

    def discard(self, number: int) -> None:
        """Take a number out, if it is there."""
        if number not in self:
            return
        number //= self._stride
        index = bisect_right(self._firsts, number) - 1
        first, last = self._firsts[index], self._lasts[index]
        fresh = [each for each in ((first, number - 1), (number + 1, last)) if each[0] <= each[1]]
        self._firsts[index : index + 1] = [each[0] for each in fresh]
        self._lasts[index : index + 1] = [each[1] for each in fresh]
        self._count -= 1

    def update(self, other: "Numbers") -> None:
        """Put all numbers of another set in."""
        for first, last in other.ranges():
            if not self._lasts or self._lasts[-1] < first // self._stride - 1:
                self._firsts.append(first // self._stride)
                self._lasts.append(last // self._stride)
                self._count += (last - first) // self._stride + 1
            else:
                for number in range(first, last + 1, self._stride):
                    self.add(number)
