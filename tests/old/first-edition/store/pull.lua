-- The pulls of one caller under one limit: a sorted set of the times at which they were made.
-- KEYS: the pulls; the image, if it is known.
-- ARGV: "take" or "peek"; the window and the count; for how long a repeat is free. Times in µs.
-- Gives {0, wait}, {1, remaining, name of the pull taken}, {2, remaining} for what is free, or
-- {3, remaining} for what was only asked.
local function whole(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local per, count, free = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local used = redis.call('ZCOUNT', KEYS[1], '(' .. whole(now - per), '+inf')
if KEYS[2] and free > 0 then
  local paid = tonumber(redis.call('GET', KEYS[2]) or '0')
  if now - paid < free then return {2, math.max(0, count - used)} end
end
if ARGV[1] == 'peek' then return {3, math.max(0, count - used)} end
if used >= count then
  -- With `count` or more, the one that makes room is the `count`-th from the end.
  local blocking = redis.call('ZRANGE', KEYS[1], -count, -count, 'WITHSCORES')
  return {0, math.max(1, tonumber(blocking[2]) + per - now)}
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - per))
local taken = now
while redis.call('ZADD', KEYS[1], 'NX', whole(taken), whole(taken)) == 0 do taken = taken + 1 end
local lasts = math.ceil(per / 1000) + 1000
if redis.call('PTTL', KEYS[1]) < lasts then redis.call('PEXPIRE', KEYS[1], whole(lasts)) end
return {1, count - used - 1, taken}
