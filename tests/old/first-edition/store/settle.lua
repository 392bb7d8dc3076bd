-- The end of a pull that was taken. KEYS: the pulls; the image, if the registry named it.
-- ARGV: "paid" if the pull was one, "none" if not; its name; the window and the count; for how long a
-- repeat is free. Times in µs. Gives {what it was after all, 1 for paid and 2 for free, remaining}.
local function whole(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local per, count, free = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local became = 1
if ARGV[1] == 'none' then
  became = 2
elseif KEYS[2] and free > 0 then
  local paid = tonumber(redis.call('GET', KEYS[2]) or '0')
  if now - paid < free then
    became = 2
  else
    redis.call('SET', KEYS[2], whole(now), 'PX', whole(math.ceil(free / 1000)))
  end
end
if became == 2 then redis.call('ZREM', KEYS[1], ARGV[2]) end
local used = redis.call('ZCOUNT', KEYS[1], '(' .. whole(now - per), '+inf')
return {became, math.max(0, count - used)}
