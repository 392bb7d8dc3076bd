-- A claim on the tags of a push: all of them, or none. KEYS: for each tag, who creates it and who move
-- it. ARGV: "create" or "move"; the claim's name; for how long it lasts unless it is released, in ms.
-- Gives {1, 0} for a claim, {0, 0} where another push has one of the tags.
local function whole(number) return string.format('%.0f', number) end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local alone, lasts = ARGV[1] == 'create', tonumber(ARGV[3])
for at = 1, #KEYS, 2 do
  local creator = redis.call('GET', KEYS[at])
  if creator and creator ~= ARGV[2] then return {0, 0} end
  if alone and redis.call('ZCOUNT', KEYS[at + 1], '(' .. whole(now), '+inf') > 0 then return {0, 0} end
end
for at = 1, #KEYS, 2 do
  if alone then
    redis.call('SET', KEYS[at], ARGV[2], 'PX', whole(lasts))
  else
    redis.call('ZREMRANGEBYSCORE', KEYS[at + 1], '-inf', whole(now))
    redis.call('ZADD', KEYS[at + 1], whole(now + lasts), ARGV[2])
    if redis.call('PTTL', KEYS[at + 1]) < lasts then redis.call('PEXPIRE', KEYS[at + 1], whole(lasts)) end
  end
end
return {1, 0}
